"""Tasks: items with a prompt and an expected answer, and the scorer that compares."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import DataError, RecipeError
from luthier.evaluate.scorers import SCORERS, exact_match
from luthier.models.base import ukulele_file
from luthier.types import Example, Message

SUITES = {"ukulele-skills": "skills.jsonl"}


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a task."""

    id: str
    prompt: tuple[Message, ...]
    expected: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """Items and how their answers are scored."""

    name: str
    items: tuple[Item, ...]
    score: Callable[[str, str], float]


def validation_task(scorer: str, examples: Sequence[Example], most: int) -> Task:
    """The last answer of each validation conversation, to be found from what stands before it.

    Raises:
        RecipeError: there is no such scorer.
        DataError: no validation row is a conversation.
    """
    if scorer not in SCORERS:
        known = ", ".join(SCORERS)
        raise RecipeError(
            f"there is no task '{scorer}'; known: {known}", where="evaluate.tasks", fix="choose from these"
        )
    items = tuple(
        Item(example.where, example.messages[:-1], example.messages[-1].content)
        for example in examples
        if example.messages
    )
    if not items:
        raise DataError(
            "no validation row is a conversation, so there is nothing to answer",
            where=f"task {scorer}",
            fix="evaluate.tasks=[] measures the validation loss alone",
        )
    return Task(scorer, items[:most], SCORERS[scorer])


def suite(name: str, folder: Path) -> Task:
    """A retention suite: one that comes with Luthier, or a .jsonl file of {"prompt", "answer"} and optionally "skill".

    Raises:
        RecipeError: there is neither.
        DataError: a line of the file is not such an object, or it has none.
    """
    path = suite_file(name, folder)
    if path is None:
        known = ", ".join(SUITES)
        raise RecipeError(
            f"there is no suite and no file '{name}'; suites: {known}", where="evaluate.retention", fix="check the path"
        )
    with path.open("rb") as file:
        items = [_suite_item(line, path, number) for number, line in enumerate(file, 1) if line.strip()]
    if not items:
        raise DataError("no questions: the file holds nothing", where=str(path), fix="add lines or remove the suite")
    return Task(name, tuple(items), exact_match)


def _suite_item(line: bytes, path: Path, number: int) -> Item:
    """One question; an answer that is no text, such as a number, is asked for as JSON writes it."""
    where, fix = f"{path}:{number}", 'mend this line: it needs "prompt" and "answer"'
    try:
        row = json.loads(line)
        prompt, answer = row["prompt"], row["answer"]
        expected = answer if isinstance(answer, str) else json.dumps(answer)
        item = Item(str(row.get("id", number)), (Message("user", prompt),), expected, str(row.get("skill", "")))
        "".join((item.id, prompt, expected, item.group)).encode("utf-8")  # half a character cannot be written down
    except KeyError as error:
        raise DataError(f"the question has no {error}", where=where, fix=fix) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"not a question: {error}", where=where, fix=fix) from error
    return item


def suite_file(name: str, folder: Path) -> Path | None:
    """Where a suite lies: with Luthier, in the recipe's folder, or in the working folder."""
    candidates = [folder / name, Path(name)] if name not in SUITES else [ukulele_file(SUITES[name])]
    return next((path for path in candidates if path.is_file()), None)
