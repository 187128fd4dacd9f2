"""Shapes of exercise collections: multiple choice, instructions with worked instances, sentences to be continued."""

from collections.abc import Mapping
from typing import Any

from luthier.data.asking import read_asked
from luthier.data.raw import type_name
from luthier.data.turns import RowError, first_key, quote, read_content, wrong
from luthier.types import Json, Message

QUESTION_KEYS = ("question", "query", "prompt", "stem", "instruction", "sentence", "ctx")
CHOICE_KEYS = ("choices", "options", "endings", "A")
GOLD_KEYS = ("gold", "answer", "answerKey", "answer_idx", "answer_index", "correct", "label", "target")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_choices(row: Json) -> list[Message]:
    """A question with its choices, and the right one as the answer: `B. the text of it`.

    Choices are a list of texts, an object of `text` and `label` lists, one of letters to texts, or columns A, B, C, ...
    The right one is given by its letter, its place counted from 0 (a number) or its text. Where the question lists the
    choices itself they are not listed again.
    """
    labels, texts = _choices(row)
    gold = _gold(row, labels, texts)
    *before, asked = read_asked(row, first_key(row, QUESTION_KEYS) or "question")
    if texts == labels:
        return [*before, asked, Message("assistant", texts[gold])]
    if not all(text in asked.content for text in texts):
        listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
        asked = Message("user", f"{asked.content}\n\n{listed}")
    return [*before, asked, Message("assistant", f"{labels[gold]}. {texts[gold]}")]


def _choices(row: Json) -> tuple[list[str], list[str]]:
    key = first_key(row, CHOICE_KEYS) or ""
    if key == "A":
        labels = [letter for letter in LETTERS if row.get(letter) is not None]
        return labels, [_text(row[letter], letter) for letter in labels]
    value = row[key]
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        texts, named = value["text"], value.get("label") or list(LETTERS)
    elif isinstance(value, Mapping):
        texts, named = list(value.values()), list(value)
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        texts = [one.get("text") for one in value]
        named = [one.get("label", letter) for one, letter in zip(value, LETTERS, strict=False)]
    elif isinstance(value, list):
        texts, named = value, list(LETTERS)
    else:
        raise wrong(key, value, "a list of choices")
    if not 2 <= len(texts) <= min(len(named), len(LETTERS)):
        raise RowError("wrong_type", f"'{key}' has {len(texts)} choices where 2 to {len(LETTERS)} were expected")
    return [str(label) for label in named[: len(texts)]], [_text(text, f"{key}[{i}]") for i, text in enumerate(texts)]


def _text(value: Any, place: str) -> str:
    return str(value) if isinstance(value, int | float) else read_content(value, place)


def _gold(row: Json, labels: list[str], texts: list[str]) -> int:
    """Which choice is right."""
    key = first_key(row, GOLD_KEYS)
    if key is None:
        raise RowError("no_answer", f"it does not say which choice is right; known: {', '.join(GOLD_KEYS)}")
    value = row[key]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(texts):
        return value
    if isinstance(value, str):
        given = value.strip()
        for names in (labels, texts):
            if given in names:
                return names.index(given)
        if given.strip("().").upper() in labels:
            return labels.index(given.strip("().").upper())
        if given.isdecimal() and int(given) < len(texts):
            return int(given)
    said = quote(value) if isinstance(value, str) else type_name(value) if isinstance(value, dict | list) else value
    raise RowError("no_answer", f"'{key}' is {said}, which is none of the {len(texts)} choices")


def read_instances(row: Json) -> list[Message]:
    """An instruction with worked instances: the first asks with the instruction, further ones with their input only."""
    instances = row["instances"]
    if not isinstance(instances, list) or not instances:
        raise wrong("instances", instances, "a list of instances")
    turns: list[Message] = []
    for i, one in enumerate(instances):
        place = f"instances[{i}]"
        if not isinstance(one, dict) or one.get("output") is None:
            raise RowError("wrong_type", f"'{place}' is not an object with 'input' and 'output'")
        given = read_content(one.get("input") or "", f"{place}.input")
        asked = read_content(row["instruction"], "instruction") if i == 0 else ""
        question = "\n\n".join(part for part in (asked, given) if part.strip())
        turns += [
            Message("user", question),
            Message("assistant", read_content(one["output"], f"{place}.output")),
        ]
    return turns


def read_cloze(row: Json) -> list[Message]:
    """Beginnings of a sentence, of which one goes with the continuation (Winograd schemas)."""
    options, gold = row["context_options"], row["gold"]
    if not isinstance(options, list) or not isinstance(gold, int) or not 0 <= gold < len(options):
        raise RowError("no_answer", "'gold' is not the place of one of 'context_options', counted from 0")
    return [
        Message("user", read_content(options[gold], f"context_options[{gold}]")),
        Message("assistant", read_content(row["continuation"], "continuation")),
    ]
