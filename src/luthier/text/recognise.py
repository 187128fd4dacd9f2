"""Plain texts that hold a whole formatted conversation, as tutorials make them.

Where the model's own template wrote the text, its turns are read back, and the mask is as for any conversation; that
the turns render to the same bytes again is checked. Where another family's control strings stand in it, the text would
teach the model a format that it is never served in: it is refused, and the family named.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from luthier.errors import TemplateError
from luthier.text.layout import SHOWN
from luthier.text.template import ANSWERED, ASKED, ASKED_AGAIN, Template, any_of
from luthier.types import Message

SYSTEM = "qzvsystem"
ANSWERED_AGAIN = "qzvlast"
FAMILIES: tuple[tuple[str, tuple[str, str]], ...] = (
    ("ChatML", ("<|im_start|>", "<|im_end|>")),
    ("Llama 2 or Mistral", ("[INST]", "[/INST]")),
    ("Llama 3", ("<|start_header_id|>", "<|end_header_id|>")),
    ("Llama 4", ("<|header_start|>", "<|header_end|>")),
    ("Gemma", ("<start_of_turn>", "<end_of_turn>")),
    ("Gemma 4", ("<|turn>", "<turn|>")),
    ("gpt-oss", ("<|start|>", "<|message|>")),
    ("DeepSeek", ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>")),  # with full-width bars
    ("Command", ("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>")),
    ("Granite", ("<|start_of_role|>", "<|end_of_role|>")),
    ("Phi, Zephyr or GLM", ("<|user|>", "<|assistant|>")),
    ("Kimi", ("<|im_user|>", "<|im_assistant|>")),
    ("OpenChat", ("GPT4 Correct User:", "GPT4 Correct Assistant:")),
    ("Open Assistant", ("<|prompter|>", "<|assistant|>")),
    ("Exaone", ("[|user|]", "[|assistant|]")),
    ("Baichuan", ("<reserved_106>", "<reserved_107>")),
)
"""Strings that together mark a text as one family's. Each is a control token there, or as good as one."""


class _Frame(NamedTuple):
    """What a template writes around the texts of a conversation."""

    open: str
    system: str | None
    """Between a system text and the first question; None when the conversation has no system turn."""
    answer: str
    """Between a question and its answer."""
    next: str
    """Between an answer and the next question."""
    close: str


def read_back(text: str, template: Template | None) -> list[Message] | None:
    """The turns of a formatted conversation; None for a text that is none.

    Raises:
        TemplateError: it is formatted for another family of models, or by the model's own template but not as the
            template writes it.
    """
    if template is not None:
        parted: str | None = None
        for frame in _frames(template):
            turns = _parse(text, frame, template.bos)
            if turns is None:
                continue
            again = template.write(template.turns(turns, template.forms(turns)[0]), generation=False)
            if _same(text, again, template.bos):
                return turns
            parted = parted or _where_they_part(text, again)
        if parted:
            raise TemplateError(f"the text is nearly as the chat template writes it, but not quite: {parted}")
        for frame in _frames(template)[-1:]:
            own = {found.group() for found in any_of(template.atoms).finditer(frame.answer)}
            if own and all(token in text for token in own):
                raise TemplateError(
                    f"the text holds {' and '.join(sorted(own))} but is no conversation as the chat template writes it",
                    fix="give the conversations as messages, so that the model's own template writes them",
                )
    family = _family(text, template)
    if family:
        raise TemplateError(
            f"the text is formatted for {family}, which this model is not served with",
            fix="give the conversations as messages, so that the model's own template writes them",
        )
    return None


def _frames(template: Template) -> list[_Frame]:
    """What the template writes around a conversation with and without a system turn."""
    if template not in _FRAMES:
        asked = [Message("user", ASKED), Message("assistant", ANSWERED)]
        more = [Message("user", ASKED_AGAIN), Message("assistant", ANSWERED_AGAIN)]
        found = [_frame(template, [Message("system", SYSTEM)], asked, more), _frame(template, [], asked, more)]
        _FRAMES[template] = [frame for frame in found if frame is not None]
    return _FRAMES[template]


_FRAMES: dict[Template, list[_Frame]] = {}


def _frame(
    template: Template, system: Sequence[Message], asked: Sequence[Message], more: Sequence[Message]
) -> _Frame | None:
    talk = [*system, *asked, *more]
    try:
        text = template.write(template.turns(talk, template.forms(talk)[0]), generation=False)
    except TemplateError:
        return None
    pieces = re.split("|".join(message.content for message in talk), text)
    if len(pieces) != len(talk) + 1:
        return None
    if system:
        start, between, answer, following, again, close = pieces
        frame = _Frame(start, between, answer, following, close)
    else:
        start, answer, following, again, close = pieces
        frame = _Frame(start, None, answer, following, close)
    return frame if answer.strip() and answer == again else None


def _parse(text: str, frame: _Frame, bos: str) -> list[Message] | None:
    """The turns between a frame's parts, as they stand or else without the white space around them."""
    body = text.removeprefix(bos)
    bare, trimmed = _bare(frame, bos)
    exact = _divide(body, bare)
    if exact is not None:
        return exact
    turns = _divide(body.strip(), trimmed)
    return None if turns is None else [Message(turn.role, turn.content.strip()) for turn in turns]


@lru_cache
def _bare(frame: _Frame, bos: str) -> tuple[_Frame, _Frame]:
    """A frame without the begin token, and without white space around its parts, too."""
    bare = frame._replace(open=frame.open.removeprefix(bos))
    named = {name: part.strip() or part for name, part in bare._asdict().items() if part is not None}
    return bare, bare._replace(**named)


def _divide(body: str, frame: _Frame) -> list[Message] | None:
    if not body.startswith(frame.open) or not body.endswith(frame.close) or not (frame.open + frame.close).strip():
        return None
    body = body[len(frame.open) : len(body) - len(frame.close)]
    turns: list[Message] = []
    if frame.system is not None:
        system, found, body = body.partition(frame.system)
        if not found:
            return None
        turns.append(Message("system", system))
    for exchange in body.split(frame.next):
        asked, found, answer = exchange.partition(frame.answer)
        if not found:
            return None
        turns += [Message("user", asked), Message("assistant", answer)]
    return turns


def _same(text: str, again: str, bos: str) -> bool:
    """Equal but for a begin token, which tokenizers add themselves, and white space around."""
    return text.strip().removeprefix(bos).strip() == again.strip().removeprefix(bos).strip()


def _where_they_part(text: str, again: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, again, strict=False)) if a != b), min(len(text), len(again)))
    start = max(0, at - SHOWN // 2)
    return f"{text[start : at + SHOWN]!r} where the template has {again[start : at + SHOWN]!r}"


def _family(text: str, template: Template | None) -> str | None:
    """The family of models whose control strings are in the text and not in the model's own template."""
    own = template.source if template else ""
    for name, (first, second) in FAMILIES:
        if first in text and second in text and not (first in own and second in own):
            return name
    return None
