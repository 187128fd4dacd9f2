"""What stands before an answer: the system turn, earlier turns, the question, and what the question is about.

Every shape that has a question beside its answer reads it here, so that a system prompt, a history or a passage is
never left out because it stands in a column of its own.
"""

import json
from typing import Any

from luthier.data.turns import RowError, first_key, is_turns, quote, read_calls, read_content, read_turns, wrong
from luthier.types import Json, Message

SYSTEM_KEYS = ("system", "system_prompt", "system_message")
PROMPT_KEYS = ("prompt", "question", "instruction", "query", "problem", "inputs", "input")
PASSAGE_KEYS = ("context", "passage", "article")
"""What a question is about stands before it (as in SQuAD), what an instruction works on after it (as in Alpaca)."""
BESIDE_KEYS = ("history", "input", *PASSAGE_KEYS)
"""What is read beside the question, where it is there."""
SHOWN_KEYS = 8


def with_system(row: Json, turns: list[Message]) -> list[Message]:
    """Put the row's own system text in front. A blank one means none: exports fill the column for every row."""
    key = first_key(row, SYSTEM_KEYS)
    text = read_content(row[key], key) if key else ""
    if not text.strip() or (turns and turns[0].role == "system"):
        return turns
    return [Message("system", text), *turns]


def read_asked(row: Json, key: str) -> list[Message]:
    """The turns up to the question under `key`: its history, and the question with what it is about.

    A question may be a list of turns by itself.
    """
    value = row[key]
    if is_turns(value):
        return [*_history(row), *read_turns(value, key)]
    question = read_content(value, key)
    passages, further = _texts(row, PASSAGE_KEYS), [] if key == "input" else _texts(row, ("input",))
    parts = [question, *further, *passages] if key == "instruction" else [*passages, question, *further]
    whole = "\n\n".join(part for part in parts if part.strip()) if len(parts) > 1 else question
    return [*_history(row), Message("user", whole)]


def _texts(row: Json, names: tuple[str, ...]) -> list[str]:
    held = [name for name in names if row.get(name) is not None]
    return [text for text in (read_content(row[name], name) for name in held) if text.strip()]


def _history(row: Json) -> list[Message]:
    """Earlier questions and answers: pairs, or turns."""
    history = row.get("history") or []
    if not isinstance(history, list):
        raise wrong("history", history, "a list of pairs")
    if is_turns(history):
        return read_turns(history, "history")
    turns: list[Message] = []
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("wrong_type", f"'history[{i}]' is not a pair of question and answer")
        turns.append(Message("user", read_content(pair[0], f"history[{i}][0]")))
        turns.append(Message("assistant", read_content(pair[1], f"history[{i}][1]")))
    return turns


def read_answer(value: Any, place: str) -> list[Message]:
    """The turns of an answer: a text, a number, turns, or calls of tools (as xlam-function-calling writes them).

    Of several accepted answers the first is learned; `{"text": [...]}` (SQuAD) and `{"value": ...}` (TriviaQA) hold
    them, too.
    """
    if place == "answers" and (calls := _called(value, place)):
        return [Message("assistant", "", tool_calls=calls)]
    if is_turns(value):
        return read_turns(value, place)
    if isinstance(value, dict):
        inner = first_key(value, ("value", "text"))
        if inner is None:
            raise _no_single(value, place)
        return read_answer(value[inner], f"{place}.{inner}")
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        if not value:
            raise RowError("no_answer", f"'{place}' is an empty list")
        return [Message("assistant", value[0])]
    if isinstance(value, list) and isinstance(value[0], dict) and "type" not in value[0]:
        raise _no_single(value[0], f"{place}[0]")
    if isinstance(value, bool):
        said = f"'{place}' is {str(value).lower()}: write what the model is to say, such as yes or no"
        raise RowError("wrong_type", said)
    return [Message("assistant", str(value) if isinstance(value, int | float) else read_content(value, place))]


def _called(value: Any, place: str) -> tuple[Json, ...]:
    """The calls in a list of them, or in JSON that holds one."""
    if isinstance(value, str) and value.lstrip()[:2].startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ()
    named = isinstance(value, list) and value and all(isinstance(one, dict) and "arguments" in one for one in value)
    return read_calls({"tool_calls": value}, place) if named else ()


def _no_single(held: Json, place: str) -> RowError:
    keys = ", ".join(quote(key) for key in list(held)[:SHOWN_KEYS])
    reason = f"'{place}' is an object with {keys}, and none of it is known as the answer: map one with fields, such as"
    return RowError("wrong_type", f"{reason} {{answer: {place.split('[')[0]}.KEY}}, or write chosen and rejected")
