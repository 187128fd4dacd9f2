"""The checks before training, on the user's own rows and model: is what will be trained what will be served?

They know nothing of how the rows were made. Each row is looked at for its end and its beginning; of some the whole is
made once more by transformers' own `apply_chat_template` and compared.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from luthier.errors import DataError, TemplateError
from luthier.text.encode import TrainingRow
from luthier.text.render import Train, encoder_of, render_batch
from luthier.text.rows import TokenRows
from luthier.text.template import Form, template_of
from luthier.text.tokenizer import Tokenizer
from luthier.types import Example

SHOWN = 60
PIECE = 2048
"""Rows looked at in one go."""
REMADE = 200
"""Rows that are made once more, evenly spread over all."""


def check_rows(
    rows: TokenRows,
    examples: Callable[[int], Iterable[Example]],
    count: int,
    check: "RowCheck",
    train: Train = "all",
    *,
    plain: bool = False,
) -> None:
    """Check token rows and the examples that they were made from.

    Args:
        rows: all token rows of one side.
        examples: reads every so-manyeth example of that side, the first among them.
        count: how many these are.
        check: by which tokenizer and stop tokens.
        train: which turns are trained.
        plain: all examples are plain texts, which may end anywhere.

    Raises:
        DataError: a check fails; with the row, both texts where they part, and what to do.
    """
    step = max(1, count // REMADE)
    every = 1 if check.suspects(rows, plain=plain) else step
    for number, example in enumerate(examples(every)):
        (found,) = render_batch([example], check.tokenizer, train=train)
        if isinstance(found, TemplateError):  # it was kept, so the renderer took it before
            raise DataError(f"the row renders no more: {found.what}", where=example.where, fix="run it again")
        check.ends(example, found)
        if number * every % step == 0:
            check.served(example, found)


class RowCheck:
    """Looks at rendered rows with one tokenizer and the ids that end an answer where the model is served."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stop = frozenset(stop)

    def suspects(self, rows: TokenRows, *, plain: bool = False) -> bool:
        """True when some answer may not end as it should, or some row begin twice; looked for in all rows at once."""
        begin, ends, twice = self.tokenizer.bos_token_id, set[int](), False
        for first in range(0, len(rows), PIECE):  # piece by piece: all tokens at once would not fit into memory
            starts = np.asarray(rows.starts[first : first + PIECE + 1])
            part = slice(int(starts[0]), int(starts[-1]))
            ids, trained, starts = rows.ids[part], np.asarray(rows.trained[part]), starts - starts[0]
            if not plain:
                following = np.zeros(len(trained), np.bool_)
                following[:-1] = trained[1:]
                following[starts[1:][starts[1:] > 0] - 1] = False
                ends.update(np.unique(ids[trained & ~following]).tolist())
            long = starts[:-1][np.diff(starts) > 1]
            twice |= begin is not None and bool(((ids[long] == begin) & (ids[long + 1] == begin)).any())
            rows.release()
        return twice or not self.stop.issuperset(ends)

    def ends(self, example: Example, rows: Sequence[TrainingRow]) -> None:
        """Each answer ends with a token at which generation stops, and no text begins with two begin tokens.

        Raises:
            DataError: one does not; with the row, what is there, and what to do.
        """
        begin = self.tokenizer.bos_token_id
        for row in rows:
            if begin is not None and row.ids[:2] == [begin, begin]:
                raise DataError(
                    f"the text begins with two begin tokens: {self._text(row.ids[:8])!r}",
                    where=example.where,
                    fix="take the begin token out of the row, or out of the chat template",
                )
            if example.text is not None:
                continue
            for _, end in stretches(row):
                last = next((i for i in reversed(row.ids[:end]) if self._text([i]).strip()), row.ids[end - 1])
                if last not in self.stop:
                    raise DataError(
                        f"the answer ends with {self._text([last])!r}, at which generation does not stop: the model "
                        f"would write on. It stops at {', '.join(repr(self._text([i])) for i in sorted(self.stop))}",
                        where=example.where,
                        fix=f"set model.end_token='{self._text([last])}' if it ends a turn of this model",
                    )

    def served(self, example: Example, rows: Sequence[TrainingRow]) -> None:
        """Each answer is trained right after the prompt that transformers makes of the turns before it.

        Raises:
            DataError: one is not; with both texts where they part.
        """
        if example.text is not None:
            return
        prompts = self._prompts(example)
        for row in rows:
            for start, end in stretches(row):
                if row.ids[:start] in prompts or any(row.ids[: len(p)] == p and start <= len(p) < end for p in prompts):
                    continue
                parted = self._parted(row.ids[:start], prompts)
                raise DataError(
                    f"an answer is not trained after the prompt that is served: {parted}",
                    where=example.where,
                    fix="this is a fault of Luthier's; please report it with the row and the model's name",
                )

    def _prompts(self, example: Example) -> list[list[int]]:
        """The ids of the prompt of each answer, in each form that the template takes."""
        template = template_of(self.tokenizer, example.tools or None)
        found = []
        for k, message in enumerate(example.messages):
            if message.role == "assistant":
                for form in template.forms(example.messages):
                    found += self._prompt(example, k, form)
        return found

    def _prompt(self, example: Example, k: int, form: Form) -> list[list[int]]:
        template = template_of(self.tokenizer, example.tools or None)
        try:
            turns = template.turns(example.messages[:k], form)
            given = self.tokenizer.apply_chat_template(
                turns, tools=list(example.tools) or None, add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, ValueError, TypeError, KeyError):  # this form is not the one that was taken
            return []
        return [encoder_of(self.tokenizer).ids(given)]

    def _parted(self, ids: list[int], prompts: Sequence[list[int]]) -> str:
        def shared(prompt: list[int]) -> int:
            return next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))

        nearest = max(prompts, key=shared, default=[])
        at = max(0, shared(nearest) - 4)
        return f"{self._text(ids[at:])[:SHOWN]!r} against {self._text(nearest[at:])[:SHOWN]!r}"

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))


def stretches(row: TrainingRow) -> Iterator[tuple[int, int]]:
    """The trained stretches [start, end) of a row."""
    start: int | None = None
    for i, trained in enumerate(row.trained):
        if trained and start is None:
            start = i
        if not trained and start is not None:
            yield start, i
            start = None
    if start is not None:
        yield start, len(row.trained)
