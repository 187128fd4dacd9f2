"""Recognising how a row is laid out, and turning it into a conversation.

A shape is one function from a row to its turns and one line in `SHAPES`; the first line whose keys a row has is taken.
Content is kept byte for byte. A row that is no good conversation gets a fate that names the key or the turn.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from luthier.data.read import RawRow, type_name
from luthier.types import Example, Fate, Json, Message, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value")
PROMPT_KEYS, COMPLETION_KEYS = ("prompt", "question", "query", "input"), ("completion", "response", "output", "answer")
INPUT_KEYS = ("input", "context")
SHOWN_KEYS, SHOWN_LETTERS = 8, 40
UNREAD = ("tool_calls", "function_call", "reasoning_content", "thinking", "weight", "train")
"""Keys of a turn that change what is to be learned and that are not read yet: such a row is refused, not half read."""


class _RowError(Exception):
    """Ends the reading of one row with its fate."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.fate = Fate(name, reason)


class Layout(NamedTuple):
    """A shape: the keys a row must have (one of each group), and what reads it: turns, or one plain text."""

    keys: tuple[tuple[str, ...], ...]
    read: Callable[[Json], list[Message] | str]

    def fits(self, row: Json) -> bool:
        """True when the row has the keys; a key with null counts as absent, as tables export it."""
        return all(_first(row, names) is not None for names in self.keys)


def convert(row: RawRow, shape: str = "auto", system: str | None = None) -> tuple[str | None, Example | Fate]:
    """The shape of a row and its conversation, or the fate that keeps it out.

    Args:
        row: the row as read.
        shape: a name in `SHAPES`, or `auto` to recognise it.
        system: a system message for conversations without one.
    """
    if row.problem or row.value is None:
        return None, row.problem or Fate("not_object", "the row is empty")
    name = recognise(row.value) if shape == "auto" else shape
    if name is None or not SHAPES[name].fits(row.value):
        return None, _unknown(row.value, name)
    try:
        found = SHAPES[name].read(row.value)
        if isinstance(found, str):
            _need_text(found, "empty_turn", "the text is empty")
            return name, Example(row.source, row.line, text=found)
        check_turns(found)
    except _RowError as error:
        return name, error.fate
    if system and found[0].role != "system":
        found = [Message("system", system), *found]
    return name, Example(row.source, row.line, tuple(found))


def recognise(row: Json) -> str | None:
    """The name of the first shape whose keys the row has."""
    return next((name for name, layout in SHAPES.items() if layout.fits(row)), None)


def check_turns(turns: Sequence[Message]) -> None:
    """Refuse turns out of order, without an answer at the end, or empty."""
    first = 1 if turns and turns[0].role == "system" else 0
    for i, turn in enumerate(turns[first:], first):
        place = f"turn {i + 1}"
        if turn.role == "system":
            raise _RowError("bad_role_order", f"{place} is 'system'; only the first turn may be")
        if turn.role != ("user" if (i - first) % 2 == 0 else "assistant"):
            if i == first:
                raise _RowError("bad_role_order", f"{place} is '{turn.role}'; the user speaks first")
            raise _RowError("bad_role_order", f"turns {i} and {i + 1} are both '{turn.role}'")
    if not turns:
        raise _RowError("no_answer", "the conversation has no turns")
    if turns[-1].role != "assistant":
        raise _RowError("no_answer", f"it does not end with an answer: turn {len(turns)} is '{turns[-1].role}'")
    for number, turn in enumerate(turns, 1):
        answer = turn.role == "assistant"
        _need_text(
            turn.content,
            "empty_answer" if answer else "empty_turn",
            f"the answer in turn {number} is empty" if answer else f"turn {number} ('{turn.role}') is empty",
        )


def _need_text(text: str, fate: str, reason: str) -> None:
    if not text.strip():
        raise _RowError(fate, reason)


def _unknown(row: Json, forced: str | None) -> Fate:
    seen = [_quote(key) for _, key in zip(range(SHOWN_KEYS), row, strict=False)]
    more = f" and {len(row) - SHOWN_KEYS} more" if len(row) > SHOWN_KEYS else ""
    keys = f"keys: {', '.join(seen)}{more}" if row else "the object is empty"
    if forced is None:
        return Fate("unknown_shape", f"no known shape; {keys}")
    wanted = " and ".join(" or ".join(f"'{name}'" for name in names) for names in SHAPES[forced].keys)
    return Fate("unknown_shape", f"not the shape '{forced}', which needs {wanted}; {keys}")


def _quote(text: str) -> str:
    cut = text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + "..."
    return "'" + json.dumps(cut, ensure_ascii=False)[1:-1] + "'"


def _first(row: Json, names: Sequence[str]) -> str | None:
    """The first of these keys that the row has with a value."""
    return next((name for name in names if row.get(name) is not None), None)


def _wrong(place: str, value: Any, wanted: str) -> _RowError:
    return _RowError("wrong_type", f"'{place}' is a JSON {type_name(value)} where {wanted} was expected")


def _content(value: Any, place: str) -> str:
    """A text, or the joined texts of a list of parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _wrong(place, value, "a text")
    texts: list[str] = []
    for i, part in enumerate(value):
        if not isinstance(part, dict):
            raise _wrong(f"{place}[{i}]", part, "a part with 'type' and 'text'")
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = _quote(str(part.get("type"))[: SHOWN_LETTERS + 1])
            raise _RowError("wrong_type", f"'{place}[{i}]' is a part of type {kind} where a text was expected")
        texts.append(part["text"])
    return "".join(texts)


def _turn(value: Any, place: str) -> Message:
    if not isinstance(value, dict):
        raise _wrong(place, value, "an object with 'role' and 'content'")
    role_key, content_key = _first(value, ROLE_KEYS), _first(value, CONTENT_KEYS)
    if role_key is None or content_key is None:
        missing = ROLE_KEYS if role_key is None else CONTENT_KEYS
        raise _RowError("wrong_type", f"'{place}' has no '{missing[0]}' or '{missing[1]}'")
    given = value[role_key]
    if unread := next((key for key in UNREAD if value.get(key) not in (None, "", [], {}, 1)), None):
        raise _RowError("unsupported", f"'{place}' has '{unread}', which cannot be trained yet")
    if not isinstance(given, str):
        raise _wrong(f"{place}.{role_key}", given, "a text")
    role = ROLES.get(given.strip().lower())
    if role is None:
        raise _RowError("unknown_role", f"'{place}.{role_key}' is {_quote(given)}; known: {', '.join(ROLES)}")
    return Message(role, _content(value[content_key], f"{place}.{content_key}"))


def _turns(value: Any, place: str) -> list[Message]:
    if not isinstance(value, list):
        raise _wrong(place, value, "a list of turns")
    return [_turn(turn, f"{place}[{i}]") for i, turn in enumerate(value)]


def _with_system(row: Json, turns: list[Message]) -> list[Message]:
    """Put the row's own system text in front. A blank one means none: exports fill the column for every row."""
    text = _content(row["system"], "system") if row.get("system") is not None else ""
    if not text.strip() or (turns and turns[0].role == "system"):
        return turns
    return [Message("system", text), *turns]


def _messages(row: Json) -> list[Message]:
    return _with_system(row, _turns(row["messages"], "messages"))


def _sharegpt(row: Json) -> list[Message]:
    return _with_system(row, _turns(row["conversations"], "conversations"))


def _alpaca(row: Json) -> list[Message]:
    turns: list[Message] = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise _wrong("history", history, "a list of pairs")
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise _RowError("wrong_type", f"'history[{i}]' is not a pair of question and answer")
        turns.append(Message("user", _content(pair[0], f"history[{i}][0]")))
        turns.append(Message("assistant", _content(pair[1], f"history[{i}][1]")))
    question = _content(row["instruction"], "instruction")
    key = _first(row, INPUT_KEYS)
    further = _content(row[key], key) if key else ""
    if further.strip():
        question = f"{question}\n\n{further}" if question.strip() else further
    answer = _first(row, ("output", "response")) or "output"
    turns += [Message("user", question), Message("assistant", _content(row[answer], answer))]
    return _with_system(row, turns)


def _prompt_completion(row: Json) -> list[Message]:
    turns: list[Message] = []
    sides: tuple[tuple[tuple[str, ...], Role], ...] = ((PROMPT_KEYS, "user"), (COMPLETION_KEYS, "assistant"))
    for names, role in sides:
        key = _first(row, names) or names[0]
        value = row[key]
        if isinstance(value, list) and value and isinstance(value[0], dict) and _first(value[0], ROLE_KEYS):
            turns += _turns(value, key)
        else:
            turns.append(Message(role, _content(value, key)))
    return _with_system(row, turns)


def _question_answer(row: Json) -> list[Message]:
    question = Message("user", _content(row["question"], "question"))
    return _with_system(row, [question, Message("assistant", _content(row["answer"], "answer"))])


def _text(row: Json) -> str:
    return _content(row["text"], "text")


SHAPES: dict[str, Layout] = {
    "messages": Layout((("messages",),), _messages),
    "sharegpt": Layout((("conversations",),), _sharegpt),
    "alpaca": Layout((("instruction",), ("output", "response")), _alpaca),
    "question_answer": Layout((("question",), ("answer",)), _question_answer),
    "prompt_completion": Layout((PROMPT_KEYS, COMPLETION_KEYS), _prompt_completion),
    "text": Layout((("text",),), _text),
}
