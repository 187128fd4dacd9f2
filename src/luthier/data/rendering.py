"""From curated content to token rows: the one place where this room calls the renderer."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from luthier.data.step import Content
from luthier.errors import TemplateError
from luthier.text import Train, TrainingRow, render_batch, render_pair
from luthier.types import Example, Message, Pair

BATCH, BATCH_LETTERS = 256, 1_000_000


class Wanted(NamedTuple):
    """What the recipe wants of rendering."""

    train: Train = "all"
    """Which turns are trained."""
    split_at: int | None = None
    """Plain texts with more tokens are split there into several rows; None: they are not."""

    def splits(self, content: Content) -> bool:
        """True when the content may be of any length, since it is split."""
        return self.split_at is not None and isinstance(content, Example) and content.text is not None


USUAL = Wanted()


def render_content(
    contents: Sequence[Content], tokenizer: Any, wanted: Wanted = USUAL
) -> list[list[TrainingRow] | TemplateError]:
    """The token rows of each content, in order, or why it has none.

    An example gives one row or, where the template asks for it, several; a pair gives two: the chosen conversation and
    the rejected one, each with only its last answer trained.
    """
    found: list[list[TrainingRow] | TemplateError] = []
    for batch in _batches(contents):
        examples = [content for content in batch if isinstance(content, Example)]
        rendered = iter(render_batch(examples, tokenizer, train=wanted.train, split_at=wanted.split_at))
        found += [_pair(one, tokenizer) if isinstance(one, Pair) else next(rendered) for one in batch]
    return found


def _pair(pair: Pair, tokenizer: Any) -> list[TrainingRow] | TemplateError:
    try:
        return list(render_pair(pair, tokenizer))
    except TemplateError as error:
        return error


def letters(content: Content) -> int:
    """Letters that the renderer is given."""
    if isinstance(content, Pair):
        return sum(_turn_letters(turn) for turn in (*content.prompt * 2, *content.chosen, *content.rejected))
    return len(content.text or "") + sum(map(_turn_letters, content.messages))


def _turn_letters(turn: Message) -> int:
    return len(turn.content) + len(turn.reasoning or "")


def most_letters(tokenizer: Any, limit: int) -> int | None:
    """Letters above which a row is too long for certain, so that a row of megabytes is not tokenised to find out.

    No token holds more letters than the longest piece of the vocabulary; composing (NFC) may have taken up to four
    letters for one. An unknown-token may stand for any number of letters, so with one nothing is certain.
    """
    if tokenizer.unk_token is not None:
        return None
    return limit * 4 * max(map(len, tokenizer.get_vocab()))


def _batches(contents: Sequence[Content]) -> Iterator[list[Content]]:
    """Contents in groups small enough that memory stays flat, however long the rows are."""
    batch: list[Content] = []
    held = 0
    for content in contents:
        batch.append(content)
        held += letters(content)
        if len(batch) >= BATCH or held >= BATCH_LETTERS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
