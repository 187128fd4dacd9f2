r"""Preference pairs: what two answers have in common is the prompt, what differs is chosen and rejected.

The answers may be texts beside a prompt, whole conversations with a common start, single turns after a conversation,
or the strings of hh-rlhf (Bai et al. 2022), in which turns begin with `\n\nHuman:` and `\n\nAssistant:`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.data.asking import BESIDE_KEYS, PROMPT_KEYS, read_asked, with_system
from luthier.data.turns import RowError, check_turns, first_key, read_content, read_turn, read_turns, wrong
from luthier.types import Json, Message, Role

MARK = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
TURNS_KEYS = ("conversations", "conversation", "messages")
PAIR_KEYS = ("margin", "score_chosen", "score_rejected", *TURNS_KEYS, *PROMPT_KEYS, *BESIDE_KEYS)
"""What is read beside `chosen` and `rejected`."""


@dataclass(frozen=True, slots=True)
class Preference:
    """The turns of a pair."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float | None = None


def read_preference(row: Json) -> Preference:
    """A row with `chosen` and `rejected`, and a prompt beside them or as their common start."""
    sides = {name: _answer(row[name], name) for name in ("chosen", "rejected")}
    whole = {name: turns[:1] != [] and turns[0].role != "assistant" for name, turns in sides.items()}
    if whole["chosen"] != whole["rejected"]:
        raise RowError("wrong_type", "of 'chosen' and 'rejected' one is a whole conversation and the other an answer")
    prompt = [] if whole["chosen"] else _prompt(row)
    chosen, rejected = (with_system(row, [*prompt, *turns]) for turns in sides.values())
    return compare(chosen, rejected, _margin(row))


def compare(chosen: Sequence[Message], rejected: Sequence[Message], margin: float | None = None) -> Preference:
    """The pair that two conversations make."""
    check_turns(chosen)
    check_turns(rejected)
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if common == len(chosen) == len(rejected):
        raise RowError("no_preference", "the chosen and the rejected answer are the same")
    if common == min(len(chosen), len(rejected)):
        raise RowError("no_preference", f"one is the beginning of the other: they part after turn {common}")
    if chosen[common].role != "assistant" or rejected[common].role != "assistant":
        raise RowError("no_common_prompt", f"they part at turn {common + 1}, which is not an answer in both")
    return Preference(tuple(chosen[:common]), tuple(chosen[common:]), tuple(rejected[common:]), margin)


def _answer(value: Any, place: str) -> list[Message]:
    """One side: a text, a turn, a list of turns, or a conversation written as one string."""
    if isinstance(value, dict):
        return [read_turn(value, place)]
    if isinstance(value, list) and value and isinstance(value[0], dict) and not _is_part(value[0]):
        return read_turns(value, place)
    text = read_content(value, place)
    return read_marked(text) or [Message("assistant", text)]


def _is_part(value: Json) -> bool:
    return "type" in value and first_key(value, ("role", "from")) is None


def read_marked(text: str) -> list[Message] | None:
    """The turns of a string that begins with `Human:`, or None when it is no such string."""
    marks = list(MARK.finditer(text))
    if not marks or marks[0].start() != 0 or marks[0][1] != "Human":
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [Message(SPEAKERS[mark[1]], text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]


def _prompt(row: Json) -> list[Message]:
    turns: list[Message] = []
    if key := first_key(row, TURNS_KEYS):
        turns = read_turns(row[key], key)
    elif key := first_key(row, PROMPT_KEYS):
        marked = read_marked(row[key]) if isinstance(row[key], str) else None
        turns = marked or read_asked(row, key)
    if turns and turns[-1].role == "assistant" and not turns[-1].content.strip():
        turns.pop()  # `\n\nAssistant:` at the end of a prompt only says who speaks next
    if not turns:
        raise RowError("no_common_prompt", "there is no prompt beside 'chosen' and 'rejected'")
    return turns


def _margin(row: Json) -> float | None:
    """By how much the chosen answer is better: `margin`, or the difference of the two scores."""
    if row.get("margin") is not None:
        return _number(row["margin"], "margin")
    names = ("score_chosen", "score_rejected")
    if any(row.get(name) is None for name in names):
        return None
    chosen, rejected = (_number(row[name], name) for name in names)
    return chosen - rejected


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(place, value, "a number")
    return float(value)
