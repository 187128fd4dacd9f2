"""Turns of a conversation: reading one from JSON, and what a whole conversation has to keep to.

Content is kept byte for byte. What is no good turn ends the reading of its row with a fate that names the key or the
turn and what was found there.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.data.raw import type_name
from luthier.types import Fate, Json, Message, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
CALLING = ("function_call", "tool_call")
"""Roles whose content is a call, written as JSON."""
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value")
EXCHANGE_KEYS = ("input", "output")
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
TOOL_KEYS = ("tools", "functions")
TRAIN_KEYS = ("train", "weight", "loss")
SHOWN_LETTERS = 40


class RowError(Exception):
    """Ends the reading of one row with its fate."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.fate = Fate(name, reason)


def first_key(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these keys that the row has with a value; null counts as absent, as tables export it."""
    return next((name for name in names if row.get(name) is not None), None)


def quote(text: str) -> str:
    """A text in quotes, cut to what a person needs to see."""
    cut = text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + "..."
    return "'" + json.dumps(cut, ensure_ascii=False)[1:-1] + "'"


def wrong(place: str, value: Any, wanted: str) -> RowError:
    """The error for a value of another type."""
    return RowError("wrong_type", f"'{place}' is a JSON {type_name(value)} where {wanted} was expected")


def read_content(value: Any, place: str) -> str:
    """A text, or the joined texts of a list of parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong(place, value, "a text")
    texts: list[str] = []
    for i, part in enumerate(value):
        if not isinstance(part, dict):
            raise wrong(f"{place}[{i}]", part, "a part with 'type' and 'text'")
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = quote(str(part.get("type"))[: SHOWN_LETTERS + 1])
            raise RowError("wrong_type", f"'{place}[{i}]' is a part of type {kind} where a text was expected")
        texts.append(part["text"])
    return "".join(texts)


def is_turns(value: Any) -> bool:
    """True for a list of turns that say who speaks: not for a text, nor for the parts of one."""
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool(first_key(value[0], ROLE_KEYS))
    )


def read_turns(value: Any, place: str) -> list[Message]:
    """A list of turns: objects that say who speaks; exchanges of `input` and `output`; or bare texts, the user's first.

    Texts and exchanges are how LIMA, UltraChat and Capybara write conversations.
    """
    if not isinstance(value, list):
        raise wrong(place, value, "a list of turns")
    if value and all(isinstance(turn, str) for turn in value):
        speakers: tuple[Role, Role] = ("user", "assistant")
        return [Message(speakers[i % 2], turn) for i, turn in enumerate(value)]
    if value and all(isinstance(turn, dict) and _is_exchange(turn) for turn in value):
        return [message for i, turn in enumerate(value) for message in _exchange(turn, f"{place}[{i}]")]
    return [read_turn(turn, f"{place}[{i}]") for i, turn in enumerate(value)]


def _is_exchange(turn: Json) -> bool:
    return not first_key(turn, ROLE_KEYS) and all(turn.get(name) is not None for name in EXCHANGE_KEYS)


def _exchange(turn: Json, place: str) -> tuple[Message, Message]:
    asked, answered = (read_content(turn[name], f"{place}.{name}") for name in EXCHANGE_KEYS)
    return Message("user", asked), Message("assistant", answered)


def read_turn(value: Any, place: str) -> Message:
    """One turn: `role` and `content`, or `from` and `value`, with reasoning, calls and flags where it has them."""
    if not isinstance(value, dict):
        raise wrong(place, value, "an object with 'role' and 'content'")
    role_key, content_key = first_key(value, ROLE_KEYS), first_key(value, CONTENT_KEYS)
    if role_key is None:
        raise RowError("wrong_type", f"'{place}' has no '{ROLE_KEYS[0]}' or '{ROLE_KEYS[1]}'")
    given = value[role_key]
    if not isinstance(given, str):
        raise wrong(f"{place}.{role_key}", given, "a text")
    name = given.strip().lower()
    role = ROLES.get(name)
    if role is None:
        raise RowError("unknown_role", f"'{place}.{role_key}' is {quote(given)}; known: {', '.join(ROLES)}")
    calls = read_calls(value, place)
    if content_key is None and not calls:
        raise RowError("wrong_type", f"'{place}' has no '{CONTENT_KEYS[0]}' or '{CONTENT_KEYS[1]}'")
    content = read_content(value[content_key], f"{place}.{content_key}") if content_key else ""
    if name in CALLING:
        calls, content = read_calls({"tool_calls": _json(content, place)}, place), ""
    if calls and role != "assistant":
        raise RowError("bad_tool_call", f"'{place}' is a turn of '{role}'; only an assistant can call a tool")
    return Message(
        role,
        content,
        reasoning=_optional_text(value, REASONING_KEYS, place) if role == "assistant" else None,
        tool_calls=calls,
        tool_call_id=_optional_text(value, ("tool_call_id",), place) if role == "tool" else None,
        name=_optional_text(value, ("name",), place) if role == "tool" else None,
        train=_train(value, place) if role == "assistant" else None,
    )


def _optional_text(turn: Json, names: Sequence[str], place: str) -> str | None:
    key = first_key(turn, names)
    text = read_content(turn[key], f"{place}.{key}") if key else ""
    return text if text.strip() else None


def _train(turn: Json, place: str) -> bool | None:
    """Whether the turn is trained. A weight between nothing and once has no meaning for a mask, so it is refused."""
    key = first_key(turn, TRAIN_KEYS)
    if key is None:
        return None
    value = turn[key]
    if value in (0, 1):  # True and False are 1 and 0
        return bool(value)
    raise RowError("wrong_type", f"'{place}.{key}' is {quote(str(value))} where 0, 1, true or false was expected")


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError("bad_tool_call", f"'{place}' holds a call that is not JSON: {quote(text)}") from error


def read_calls(turn: Json, place: str) -> tuple[Json, ...]:
    """The calls of a turn in OpenAI's form, from there or from the bare `{"name": ..., "arguments": ...}`."""
    key = first_key(turn, ("tool_calls", "function_call"))
    if key is None:
        return ()
    value = turn[key]
    listed = value if isinstance(value, list) else [value]
    return tuple(_call(call, f"{place}.{key}[{i}]") for i, call in enumerate(listed))


def _call(call: Any, place: str) -> Json:
    if not isinstance(call, dict):
        raise wrong(place, call, "a call")
    function = call["function"] if isinstance(call.get("function"), dict) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RowError("bad_tool_call", f"'{place}' does not name its function")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _json(arguments, place) if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise RowError("bad_tool_call", f"'{place}' has a JSON {type_name(arguments)} for arguments, not an object")
    number = call.get("id")
    known = {"id": number} if isinstance(number, str) else {}
    return {"type": "function", **known, "function": {"name": name, "arguments": arguments}}


def read_tools(row: Json) -> tuple[Json, ...]:
    """The definitions of tools that a row has under `tools` (a list, or JSON in a text) or `functions`."""
    key = first_key(row, TOOL_KEYS)
    if key is None:
        return ()
    value = row[key]
    if isinstance(value, str):
        value = _json(value, key) if value.strip() else []
    if not isinstance(value, list):
        raise wrong(key, value, "a list of tools")
    return tuple(_tool(tool, f"{key}[{i}]") for i, tool in enumerate(value))


def _tool(tool: Any, place: str) -> Json:
    if not isinstance(tool, dict):
        raise wrong(place, tool, "the definition of a tool")
    function = tool["function"] if isinstance(tool.get("function"), dict) else tool
    if not isinstance(function.get("name"), str):
        raise RowError("wrong_type", f"'{place}' is a tool without a name")
    return {"type": "function", "function": function}


def check_turns(turns: Sequence[Message], *, answered: bool = True) -> None:
    """Refuse turns out of order, empty, with calls and results that do not match, or not `answered` at the end."""
    first = 1 if turns and turns[0].role == "system" else 0
    previous = Message("assistant", "")  # what may come before the first turn: whatever a user may follow
    for i, turn in enumerate(turns[first:], first):
        _check_order(turn, None if i == first else previous, i)
        previous = turn
    if not turns:
        raise RowError("no_answer", "the conversation has no turns")
    if answered and turns[-1].role != "assistant":
        raise RowError("no_answer", f"it does not end with an answer: turn {len(turns)} is '{turns[-1].role}'")
    _check_calls(turns)
    for number, turn in enumerate(turns, 1):
        if turn.tool_calls or turn.role == "tool":  # a tool may have nothing to say
            continue
        answer = turn.role == "assistant"
        need_text(
            turn.content,
            "empty_answer" if answer else "empty_turn",
            f"the answer in turn {number} is empty" if answer else f"turn {number} ('{turn.role}') is empty",
        )


def _check_order(turn: Message, previous: Message | None, i: int) -> None:
    """`turn` is the one with number i + 1."""
    if turn.role == "system":
        raise RowError("bad_role_order", f"turn {i + 1} is 'system'; only the first turn may be")
    if previous is None:
        if turn.role != "user":
            raise RowError("bad_role_order", f"turn {i + 1} is '{turn.role}'; the user speaks first")
    elif turn.role == "tool":
        if previous.role != "tool" and not previous.tool_calls:
            reason = f"turn {i + 1} is the result of a tool that turn {i} did not call"
            if previous.role == "assistant":
                reason += ": a call is read from 'tool_calls' (name and arguments), not from the text of the answer"
            raise RowError("unmatched_tool_call", reason)
    elif turn.role == previous.role:
        raise RowError("bad_role_order", f"turns {i} and {i + 1} are both '{turn.role}'")
    elif turn.role == "user" and previous.role == "tool":
        raise RowError("bad_role_order", f"turn {i + 1} is 'user', but nobody answered after the tool in turn {i}")
    elif turn.role == "user" and previous.tool_calls:
        raise RowError("unmatched_tool_call", f"the call in turn {i} has no result: turn {i + 1} is 'user'")


def _check_calls(turns: Sequence[Message]) -> None:
    """Every result answers a call of the turn before the results, by its id where both have one."""
    open_ids: list[str | None] = []
    for number, turn in enumerate(turns, 1):
        if turn.role == "tool":
            if not open_ids:
                raise RowError("unmatched_tool_call", f"turn {number} is one result more than there were calls")
            if turn.tool_call_id in open_ids:
                open_ids.remove(turn.tool_call_id)
            elif turn.tool_call_id is None or None in open_ids:
                open_ids.pop(0 if turn.tool_call_id is None else open_ids.index(None))
            else:
                reason = f"turn {number} answers the call {quote(turn.tool_call_id)}, which nobody made"
                raise RowError("unmatched_tool_call", reason)
        else:
            if open_ids:
                raise RowError("unmatched_tool_call", f"{len(open_ids)} calls before turn {number} have no result")
            open_ids = [call.get("id") for call in turn.tool_calls]


def need_text(text: str, fate: str, reason: str) -> None:
    """Refuse a text without a letter in it."""
    if not text.strip():
        raise RowError(fate, reason)
