"""Suites asked of a model outside of a run: what `luthier evaluate --suite` and `luthier compare` do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from luthier.errors import LuthierError
from luthier.evaluate.items import Task
from luthier.evaluate.marking import summarise
from luthier.evaluate.metrics import paired
from luthier.evaluate.regressions import broken
from luthier.evaluate.rows import read_text
from luthier.evaluate.tasks import find_tasks
from luthier.pipeline.candidate import open_candidate
from luthier.types import Answer, Metric


def load_suites(names: Sequence[str]) -> list[Task]:
    """The tasks of suites named by a person: published formats, our own, and files of either kind."""
    tasks: list[Task] = []
    for name in names:
        regression = name.endswith((".yaml", ".yml")) and _has_prompts(Path(name))
        tasks += find_tasks([name], Path(), "regression" if regression else "task")
    return tasks


def _has_prompts(path: Path) -> bool:
    try:
        body = yaml.safe_load(read_text(path))
    except (LuthierError, yaml.YAMLError):
        return False  # the reader of tasks says what is wrong with it
    return isinstance(body, dict) and "prompts" in body


def ask_suites(
    model: str, tasks: Sequence[Task], runs: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, list[Answer]]:
    """The answers of a model to every task, by task."""
    from luthier.evaluate.asking import ask

    candidate = open_candidate(model, runs)
    total, done = sum(len(task.items) * task.decoding.samples for task in tasks), 0

    def tell(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    return {task.name: ask(candidate, task, tell) for task in tasks}


def metrics_of(tasks: Sequence[Task], answers: dict[str, list[Answer]]) -> dict[str, Metric]:
    """Every metric of the tasks."""
    return {metric.name: metric for task in tasks for metric in summarise(task, answers[task.name])}


def regressed(tasks: Sequence[Task], answers: dict[str, list[Answer]]) -> list[dict[str, Any]]:
    """Every answer to a regression prompt that does not hold, with what is broken."""
    return [row for task in tasks if task.role == "regression" for row in _regressed(task, answers[task.name])]


def _regressed(task: Task, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    items = {item.id: item for item in task.items}
    judged = [(answer, broken(answer.answer, items[answer.item])) for answer in answers if answer.outcome != "failed"]
    return [
        {"suite": task.name, "prompt": answer.item, "answer": answer.answer, "reasons": reasons}
        for answer, reasons in judged
        if reasons
    ]


def differences(
    tasks: Sequence[Task], first: dict[str, list[Answer]], second: dict[str, list[Answer]]
) -> list[dict[str, Any]]:
    """The paired difference, second minus first, of every task, with 95 % bounds and the chance of none."""
    rows = []
    for task in tasks:
        old, new = (_scores(side[task.name]) for side in (first, second))
        both = [item for item in old if item in new]
        if not both:
            continue
        gap = paired([old[i] for i in both], [new[i] for i in both], 0.025)
        chance = min(1.0, 2 * min(gap.p_better, gap.p_worse))
        one, two = (sum(side[i] for i in both) / len(both) for side in (old, new))
        rows.append(
            {"name": task.name, "first": one, "second": two, "n": len(both), "p": chance}
            | {"difference": gap.value, "low": gap.low, "high": gap.high}
        )
    return rows


def _scores(answers: Sequence[Answer]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for answer in answers:
        if answer.outcome != "failed":
            found.setdefault(answer.cluster, []).append(answer.score)
    return {item: sum(scores) / len(scores) for item, scores in found.items()}
