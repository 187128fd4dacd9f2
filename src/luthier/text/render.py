"""From conversations to token ids with an exact loss mask, by the model's own chat template and nothing else.

What the model is asked to produce is found by rendering: the text of turn k is what the template adds between the
generation prompt after turns 0..k-1 and the end of turn k, the end-of-turn token included. It is found on characters
and carried to tokens by offsets. Three things are checked for each turn, and a row that fails one is refused with the
reason: the generation prompt is a prefix of the training text; the turn ends with a control token; tokenising the
prompt alone gives the same ids as tokenising the whole. So what is trained is what is served.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from luthier.errors import TemplateError
from luthier.text.tokenizer import Tokenizer, control_tokens
from luthier.types import Example, Message

Train = Literal["all", "last"]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """Token ids, and for each whether it is trained (contributes to the loss as a label)."""

    ids: list[int]
    trained: list[bool]


class _Turn(NamedTuple):
    """One assistant turn in the text of the whole conversation: characters [start, end)."""

    start: int
    end: int


class _Text(NamedTuple):
    """A rendered conversation with its trained turns."""

    whole: str
    turns: list[_Turn]


def render(
    messages: Sequence[Message | dict[str, Any]],
    tokenizer: Tokenizer,
    *,
    tools: list[dict[str, Any]] | None = None,
    train: Train = "all",
) -> list[TrainingRow]:
    """Render one conversation for training.

    Args:
        messages: the conversation, oldest turn first.
        tokenizer: a fast tokenizer with a chat template.
        tools: tool definitions for templates that take them.
        train: `all` assistant turns or only the `last`.

    Returns:
        The training rows of the conversation; here always one.

    Raises:
        TemplateError: the template cannot express the conversation so that it trains what is served.
    """
    turns = [m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in messages]
    text = _lay_out(turns, tokenizer, tools=tools, train=train)
    row = _tokenise([text], tokenizer)[0]
    if isinstance(row, TemplateError):
        raise row
    return [row]


def render_batch(examples: Sequence[Example], tokenizer: Tokenizer) -> list[TrainingRow | TemplateError]:
    """Render many examples in one pass of the tokenizer; a refused one gives its error in place of a row."""
    texts: list[_Text | TemplateError] = []
    for example in examples:
        try:
            texts.append(
                _lay_out(example.messages, tokenizer) if example.text is None else _plain(example.text, tokenizer)
            )
        except TemplateError as error:
            texts.append(error)
    good = [text for text in texts if isinstance(text, _Text)]
    rows = iter(_tokenise(good, tokenizer))
    return [next(rows) if isinstance(text, _Text) else text for text in texts]


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The ids to generate an answer from: the conversation with the generation prompt, as a server renders it."""
    text = _template(messages, tokenizer, generation=True)
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def _template(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    generation: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(
            "the model has no chat template, so a conversation has no defined text",
            fix="choose a chat model, or train on rows with one `text` field",
        )
    from jinja2 import TemplateError as JinjaError

    turns = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=generation)
    except (JinjaError, TypeError, ValueError) as error:
        raise TemplateError(f"the chat template refuses the conversation: {error}") from error
    return str(text)


def _lay_out(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    tools: list[dict[str, Any]] | None = None,
    train: Train = "all",
) -> _Text:
    """The text of the conversation and its trained turns, checked on characters."""
    controls = control_tokens(tokenizer)
    for number, message in enumerate(messages, 1):
        if found := next((token for token in controls if token in message.content), None):
            raise TemplateError(f"turn {number} holds the control token {found} as text")
    whole = _template(messages, tokenizer, tools=tools)
    answers = [k for k, message in enumerate(messages) if message.role == "assistant"]
    if train == "last":
        answers = answers[-1:]
    turns: list[_Turn] = []
    for k in answers:
        before = _template(messages[:k], tokenizer, generation=True, tools=tools)
        after = whole if k == len(messages) - 1 else _template(messages[: k + 1], tokenizer, tools=tools)
        if not after.startswith(before):
            raise TemplateError(f"turn {k + 1}: the generation prompt is not the beginning of what is trained")
        end = len(before) + _end_of_turn(after[len(before) :], messages[k].content, controls, k)
        if whole[:end] != after[:end]:
            raise TemplateError(f"turn {k + 1}: the template writes it differently when later turns follow")
        turns.append(_Turn(len(before), end))
    return _Text(whole, turns)


def _end_of_turn(body: str, content: str, controls: frozenset[str], k: int) -> int:
    """Characters of the turn, its end token included, in the text that begins where the model begins to write.

    A template may write something of its own before the answer, an empty reasoning block for example. The model has to
    write that too where it is served, so it is trained. A control token there means that the generation prompt does not
    open the answer.
    """
    if not content.strip():
        raise TemplateError(f"turn {k + 1}: the answer is empty")
    found = [at for token in controls if (at := body.find(token)) >= 0]
    answer = body[: min(found, default=len(body))]  # no content holds a control token
    if not any(answer.endswith(form) or answer.rstrip().endswith(form) for form in (content, content.strip())):
        if content.strip() in body[len(answer) :]:
            opening = _token_at(body, len(answer), controls)
            raise TemplateError(f"turn {k + 1}: the generation prompt ends before {opening}, which opens the answer")
        raise TemplateError(f"turn {k + 1}: the template changes the answer's text")
    if not found:
        raise TemplateError(f"turn {k + 1}: the template writes no end-of-turn token after the answer")
    return len(answer) + len(_token_at(body, len(answer), controls))


def _token_at(text: str, at: int, controls: frozenset[str]) -> str:
    """The control token at a place in a text; the longest when one begins like another."""
    return max((token for token in controls if text.startswith(token, at)), key=len)


def _plain(text: str, tokenizer: Tokenizer) -> _Text:
    """A plain text with the model's begin and end tokens; all but the begin token is trained."""
    begin = tokenizer.bos_token or ""
    end = tokenizer.eos_token or ""
    if found := next((token for token in control_tokens(tokenizer) if token in text), None):
        raise TemplateError(f"the text holds the control token {found}")
    return _Text(begin + text + end, [_Turn(len(begin), len(begin) + len(text) + len(end))])


def _tokenise(texts: Sequence[_Text], tokenizer: Tokenizer) -> list[TrainingRow | TemplateError]:
    """Token ids and masks for rendered texts, all in one call of the tokenizer."""
    wholes = [text.whole for text in texts]
    prompts = [text.whole[: turn.start] for text in texts for turn in text.turns]
    encodings = tokenizer.backend_tokenizer.encode_batch(wholes + prompts, add_special_tokens=False)
    heads = iter(encodings[len(wholes) :])
    rows: list[TrainingRow | TemplateError] = []
    for text, encoding in zip(texts, encodings[: len(wholes)], strict=True):
        ids, offsets = encoding.ids, encoding.offsets
        own = [next(heads).ids for _ in text.turns]
        try:
            trained = [False] * len(ids)
            for turn, head in zip(text.turns, own, strict=True):
                first, last = _span(turn, head, ids, offsets)
                trained[first:last] = [True] * (last - first)
            trained[:1] = [False]  # nothing stands before the first token that could predict it
            rows.append(TrainingRow(ids, trained))
        except TemplateError as error:
            rows.append(error)
    return rows


def _span(turn: _Turn, head: list[int], ids: list[int], offsets: list[tuple[int, int]]) -> tuple[int, int]:
    """The tokens [first, last) of a turn."""
    first = len(head)
    if ids[:first] != head:
        raise TemplateError("tokenising the prompt alone gives other tokens than tokenising the whole")
    last = first
    while last < len(ids) and offsets[last][0] < turn.end:
        last += 1
    if last > first and offsets[last - 1][1] > turn.end:
        raise TemplateError("a token reaches over the end of the turn")
    return first, last
