"""Which tasks a recipe means: scorers on the validation answers, files, published suites.

A suite is named by what comes with Luthier (`ukulele-skills`), by a file (`questions.jsonl`, `task.yaml`), or by a
published format and where it lies (`mmlu:PATH`). Adding a format is a loader and a line in `FORMATS`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from luthier.artifact import digest
from luthier.errors import DataError, Missing, RecipeError
from luthier.evaluate import instructions, safety
from luthier.evaluate.benchmarks import hellaswag, mmlu
from luthier.evaluate.code import humaneval
from luthier.evaluate.items import Item, Role, Task
from luthier.evaluate.regressions import read_regressions
from luthier.evaluate.safety.suites import tasks_of as safety_tasks
from luthier.evaluate.scorers import SCORERS, exact_match, find_scorer
from luthier.evaluate.summaries import corpus_bleu, means
from luthier.evaluate.taskfile import check_ids, read_task
from luthier.models.base import ukulele_file
from luthier.types import NO_ANSWER, Example, Message

Loader = Callable[[Path, str], list[Task]]
"""From a file or folder and the suite's name to its tasks."""

SUITES = {"ukulele-skills": "skills.jsonl"}
BUILT_IN: dict[str, Callable[[], list[Task]]] = {
    "luthier-instructions": lambda: instructions.own_suite("luthier-instructions"),
    "luthier-safety": lambda: safety_tasks("luthier-safety", safety.own_suite()),
    "luthier-jailbreaks": lambda: safety_tasks("luthier-jailbreaks", safety.own_suite(), jailbroken=True),
}
"""Suites that are made and not read."""


def _safety(kind: str, jailbroken: bool) -> Loader:
    return lambda path, name: safety_tasks(name, safety.FORMATS[kind](path), jailbroken=jailbroken)


FORMATS: dict[str, Loader] = {
    "humaneval": humaneval,
    "humaneval-plain": partial(humaneval, plain=True),
    "mmlu": mmlu,
    "hellaswag": hellaswag,
    "ifeval": instructions.ifeval,
    **{kind: _safety(kind, jailbroken=False) for kind in safety.FORMATS},
    **{f"{kind}-jailbreaks": _safety(kind, jailbroken=True) for kind in safety.FORMATS},
}


def validation_task(scorer: str, examples: Sequence[Example], most: int) -> Task:
    """The last answer of each validation conversation, to be found from what stands before it.

    Raises:
        RecipeError: there is no such scorer.
        DataError: no validation row is a conversation.
    """
    score = find_scorer(scorer)
    items = tuple(
        Item(example.where, example.messages[:-1], example.messages[-1].content)
        for example in examples
        if example.messages and example.messages[-1] != NO_ANSWER
    )
    if not items:
        raise DataError(
            "no validation row is a conversation with an answer, so there is nothing to compare with",
            where=f"task {scorer}",
            fix="evaluate.tasks=[] measures the validation loss alone",
        )
    return Task(
        scorer, items[:most], score, summarise=corpus_bleu if scorer == "bleu" else means, scoring=f"generate {scorer}"
    )


def find_tasks(names: Iterable[str], folder: Path, role: Role) -> list[Task]:
    """The suites of these names.

    Args:
        names: as the recipe gives them.
        folder: the recipe's folder, where relative paths are looked for first.
        role: what the suites are for.

    Raises:
        RecipeError: there is no such suite or file.
        DataError: a file is not what its name says.
    """
    found = []
    for name in names:
        if name.startswith("lm-eval:"):
            found.append(replace(_harness(name.removeprefix("lm-eval:")), role=role))
            continue
        if name in BUILT_IN:
            found += [replace(task, role=role) for task in BUILT_IN[name]()]
            continue
        kind, path = _resolve(name, folder, role)
        loaded = FORMATS[kind](path, name) if kind in FORMATS else _own(name, path, role)
        found += [replace(task, role=role) for task in loaded]
    return found


def suite_file(name: str, folder: Path) -> Path | None:
    """The file or folder a suite is read from: with Luthier, in the recipe's folder, or in the working folder."""
    if name in SUITES:
        return ukulele_file(SUITES[name])
    kind, _, rest = name.partition(":")
    given = rest if kind in FORMATS and rest else name
    return next((path for path in (folder / given, Path(given)) if path.is_file() or path.is_dir()), None)


def _harness(name: str) -> Task:
    """A task of lm-evaluation-harness; made here, for the module that asks it needs torch."""
    try:
        used = version("lm-eval")
    except PackageNotFoundError as error:
        raise Missing(
            "tasks of lm-evaluation-harness need the package lm-eval",
            where=f"lm-eval:{name}",
            fix="pip install 'luthier[lm-eval]'",
        ) from error
    return Task(f"lm-eval:{name}", (), kind="harness", summarise=means, scoring=f"lm-eval {name} {used}")


def _resolve(name: str, folder: Path, role: Role) -> tuple[str, Path]:
    """The format and the place of a suite."""
    path = suite_file(name, folder)
    if path is None:
        known = ", ".join([*SUITES, *BUILT_IN, *(f"{kind}:PATH" for kind in FORMATS)])
        raise RecipeError(
            f"there is no suite and no file '{name}'; suites: {known}", where=f"evaluate.{role}", fix="check the path"
        )
    return name.partition(":")[0] if name not in SUITES else "", path


def _own(name: str, path: Path, role: Role) -> list[Task]:
    """A suite of {"prompt", "answer"} lines, or a task in YAML."""
    if path.suffix in (".yaml", ".yml"):
        return [read_regressions(path) if role == "regression" else read_task(path, role)]
    with path.open("rb") as file:
        items = tuple(_suite_item(line, path, number) for number, line in enumerate(file, 1) if line.strip())
    if not items:
        raise DataError("no questions: the file holds nothing", where=str(path), fix="add lines or remove the suite")
    check_ids(items, str(path))
    return [Task(name, items, exact_match, scoring="generate exact_match", summarise=means)]


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


def with_reserve(task: Task, share: float, rotation: int = 0) -> Task:
    """The task with a share of its items kept in reserve.

    Which ones is drawn by a hash of the item, so that it is the same for every model; another `rotation` draws anew.
    Suites of fixed prompts, of which every one must hold, keep none.
    """
    if not share or task.role == "regression":
        return task
    order = sorted(task.items, key=lambda item: digest([rotation, item.id]))
    kept = {item.id for item in order[int(share * len(order)) :]}
    items = tuple(item for item in task.items if item.id in kept)
    return replace(task, items=items, reserve=tuple(item for item in task.items if item.id not in kept))


def own_tasks(names: Iterable[str], examples: Sequence[Example], folder: Path, most: int) -> list[Task]:
    """The tasks of the recipe: a scorer's name asks the validation prompts, anything else is a suite."""
    found = []
    for name in names:
        found += [validation_task(name, examples, most)] if name in SCORERS else _suites(name, folder)
    return found


def _suites(name: str, folder: Path) -> list[Task]:
    if name not in BUILT_IN and suite_file(name, folder) is None and ":" not in name and "." not in name:
        find_scorer(name)  # says which there are
    return find_tasks([name], folder, "task")
