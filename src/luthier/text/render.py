"""From conversations to token ids with an exact loss mask, by the model's own chat template and nothing else.

`render` is the one way: training, inspection, evaluation and serving all go through it or through `render_prompt`,
which gives the ids that an answer is generated from. Which characters are trained is settled in `layout`, which tokens
these are in `encode`; what cannot be trained exactly as it would be served is refused with the reason.
"""

import weakref
from collections.abc import Sequence
from typing import Any

from luthier.errors import RecipeError, TemplateError
from luthier.text.encode import Encoder, TrainingRow
from luthier.text.layout import Text, Train, lay_out, prompt_text
from luthier.text.reasoning import without_reasoning
from luthier.text.recognise import read_back
from luthier.text.template import Template, mark_typed, template_of
from luthier.text.tokenizer import Tokenizer
from luthier.types import Example, Json, Message

__all__ = ["Train", "TrainingRow", "plain_prompt", "read_answer", "render", "render_batch", "render_prompt"]
_ENCODERS: "weakref.WeakKeyDictionary[Any, Encoder]" = weakref.WeakKeyDictionary()


def render(
    messages: Sequence[Message | Json],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Json] | None = None,
    train: Train = "all",
) -> list[TrainingRow]:
    """Render one conversation for training.

    Args:
        messages: the conversation, oldest turn first: `Message`s, or objects with `role` and `content` as chat APIs
            have them.
        tokenizer: a fast tokenizer with a chat template.
        tools: definitions of tools for templates that take them.
        train: `all` assistant turns or only the `last`; a turn's own `train` (or `weight` 0 or 1) comes first.

    Returns:
        The training rows, oldest turn first. Usually one; more where the template writes a turn differently once later
        turns follow. Each trained turn is trained in exactly one of them.

    Raises:
        TemplateError: the template cannot express the conversation so that it trains what is served.
    """
    turns = [turn if isinstance(turn, Message) else _message(turn) for turn in messages]
    texts = lay_out(turns, template_of(tokenizer, tools), tools=tools, train=train)
    rows: list[TrainingRow] = []
    for row in encoder_of(tokenizer).rows(texts):
        if isinstance(row, TemplateError):
            raise row
        rows.append(row)
    return rows


def render_batch(
    examples: Sequence[Example], tokenizer: Tokenizer, *, train: Train = "all", split_at: int | None = None
) -> list[list[TrainingRow] | TemplateError]:
    """Render many examples in one pass of the tokenizer; a refused one gives its error in place of its rows.

    Args:
        examples: conversations and plain texts.
        tokenizer: the model's.
        train: which turns of a conversation are trained.
        split_at: plain texts of more tokens are divided there into several rows.

    Raises:
        RecipeError: there are conversations and the model has no chat template.
    """
    if not tokenizer.chat_template and any(example.text is None for example in examples):
        raise RecipeError(
            "the model has no chat template, and the rows are conversations",
            where="model.base",
            fix="give model.chat_template.prompt and .completion in the recipe, or choose a chat model",
        )
    usual = template_of(tokenizer) if tokenizer.chat_template else None
    texts: list[list[Text] | TemplateError] = []
    for example in examples:
        try:
            texts.append(_texts(example, tokenizer, usual, train))
        except TemplateError as error:
            texts.append(error)
    rows = iter(encoder_of(tokenizer).rows([text for found in texts if isinstance(found, list) for text in found]))
    rendered = [_joined([next(rows) for _ in found]) if isinstance(found, list) else found for found in texts]
    if split_at is None:
        return rendered
    return [
        found if example.text is None or isinstance(found, TemplateError) else _split(found, split_at)
        for example, found in zip(examples, rendered, strict=True)
    ]


def _split(rows: Sequence[TrainingRow], limit: int) -> list[TrainingRow]:
    """The rows of a plain text in pieces of at most `limit` tokens.

    Each piece after the first begins with the last token of the one before: so every token is trained that would be
    trained in one piece.
    """
    pieces: list[TrainingRow] = []
    for row in rows:
        if len(row.ids) <= limit:
            pieces.append(row)
            continue
        start = 0
        while True:
            ids, trained = row.ids[start : start + limit], row.trained[start : start + limit]
            pieces.append(TrainingRow(ids, [trained[0] and not start, *trained[1:]]))
            if start + limit >= len(row.ids):
                break
            start += limit - 1
    return pieces


def render_prompt(
    messages: Sequence[Message], tokenizer: Tokenizer, *, tools: Sequence[Json] | None = None
) -> list[int]:
    """The ids to generate an answer from: the conversation with the generation prompt, as a server renders it."""
    return encoder_of(tokenizer).ids(prompt_text(messages, template_of(tokenizer, tools), tools))


def plain_prompt(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids to go on from after a plain text: the model's begin token, unless it is written already, and the text.

    Control tokens in the text count as such: whoever asks without a template writes them.
    """
    begin = tokenizer.bos_token or ""
    whole = text if begin and text.startswith(begin) else begin + text
    return [int(i) for i in tokenizer.backend_tokenizer.encode(whole, add_special_tokens=False).ids]


def read_answer(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The answer in what a model wrote: without reasoning, and without what the template writes around it.

    It is what a server shows: the rest is the model's business with its template.
    """
    text = str(tokenizer.decode(list(ids)))
    if not tokenizer.chat_template:
        return text
    opening = template_of(tokenizer).opening.strip()
    if opening and opening in text:
        return text.rpartition(opening)[2].lstrip()
    return without_reasoning(text)


def _joined(rows: Sequence[TrainingRow | TemplateError]) -> list[TrainingRow] | TemplateError:
    problem = next((row for row in rows if isinstance(row, TemplateError)), None)
    return problem or [row for row in rows if isinstance(row, TrainingRow)]


def _texts(example: Example, tokenizer: Tokenizer, usual: Template | None, train: Train) -> list[Text]:
    """The texts of one example; `usual` is the template of conversations without tools."""
    if example.text is not None:
        messages = read_back(example.text, usual)
        if messages is None or usual is None:
            return [_plain(example.text, tokenizer)]
        return lay_out(messages, usual, train=train)
    tools = example.tools or None
    template = usual if usual and not tools else template_of(tokenizer, tools)
    return lay_out(example.messages, template, tools=tools, train=train)


def _plain(text: str, tokenizer: Tokenizer) -> Text:
    """A plain text with the model's begin and end tokens; all but the begin token is trained."""
    begin = tokenizer.bos_token or ""
    end = tokenizer.eos_token or ""
    text = mark_typed(text, encoder_of(tokenizer).controls)
    return Text(begin + text + end, [(len(begin), len(begin) + len(text) + len(end))])


def encoder_of(tokenizer: Tokenizer) -> Encoder:
    """The encoder of a tokenizer; made once."""
    if tokenizer not in _ENCODERS:
        _ENCODERS[tokenizer] = Encoder(tokenizer)
    return _ENCODERS[tokenizer]


def _message(turn: Json) -> Message:
    """A turn as chat APIs write it."""
    reasoning = next((turn[key] for key in ("reasoning_content", "reasoning", "thinking") if turn.get(key)), None)
    flag = turn.get("train", turn.get("weight"))
    return Message(
        turn["role"],
        turn.get("content") or "",
        reasoning,
        tuple(turn.get("tool_calls") or ()),
        turn.get("tool_call_id"),
        turn.get("name"),
        None if flag is None else bool(flag),
    )
