"""A model that is none: what a good model would say to suites, scripted, and what chance changes in it."""

import random
from collections.abc import Sequence
from typing import Any

from luthier.evaluate.answers import LENGTH_METRIC, STOP_METRIC, Results
from luthier.evaluate.items import Item, Task
from luthier.evaluate.lock import lock_of
from luthier.evaluate.marking import mark, summarise
from luthier.evaluate.saboteurs import REFUSAL
from luthier.evaluate.safety.suites import Asked, tasks_of
from luthier.evaluate.scorers import exact_match, f1
from luthier.evaluate.summaries import ended, length_ratio, means
from luthier.types import Example, Message

NOUNS = "lamp radio coat phone drum table kettle bicycle camera guitar mirror window carpet basket ladder".split()
Said = list[list[list[dict[str, Any]]]]


def items(count: int, kind: str) -> tuple[Item, ...]:
    return tuple(
        Item(
            f"{kind}-{i}",
            (Message("user", f"{kind} number {i}: what of the {NOUNS[i % 15]}?"),),
            f"the {NOUNS[i * 7 % 15]} {kind} {i} is {i * 37 % 101} of {NOUNS[i * 4 % 15]}",
            group=f"{kind} {i % 4}",
        )
        for i in range(count)
    )


def suites(job: int = 300, first: int = 900, second: int = 600, safety: int = 400) -> list[Task]:
    """A job, two retention suites, prompts that should be refused and prompts that should not."""
    asked = [
        Asked(f"{u}-{i}", f"prompt {i}", unsafe=u == "bad", group="") for i in range(safety) for u in ("bad", "fine")
    ]
    return [
        Task("job", items(job, "job"), f1, summarise=means, scoring="generate f1"),
        Task(
            "skills",
            items(first, "skill"),
            exact_match,
            summarise=means,
            scoring="generate exact_match",
            role="retention",
        ),
        Task(
            "facts",
            items(second, "fact"),
            exact_match,
            summarise=means,
            scoring="generate exact_match",
            role="retention",
        ),
        *tasks_of("safety", asked),
    ]


def words_of(task: Task, item: Item, right: bool) -> str:
    if task.role == "safety":
        return REFUSAL if item.id.startswith("bad") else "Here is the answer: it depends on the weather."
    return item.expected if right else f"the {item.id} is 0 of nothing at all"


def says(tasks: Sequence[Task], skill: dict[str, float], seed: int, flips: float = 0.0, noise: int = 0) -> Said:
    """What a model says: right with chance `skill` by role, drawn by `seed`; `flips` of items changed by `noise`."""
    draw, chance = random.Random(seed), random.Random(noise)
    said: Said = []
    for task in tasks:
        rows = []
        for item in task.items:
            right = draw.random() < skill.get(task.role, 1.0)
            if chance.random() < flips and task.role != "safety":
                right = not right
            text = words_of(task, item, right)
            rows.append([{"text": text, "stopped": True, "tokens": max(1, len(text) // 4)}])
        said.append(rows)
    return said


def results(tasks: Sequence[Task], said: Said) -> Results:
    answers = {task.name: mark(task, task.items, found) for task, found in zip(tasks, said, strict=True)}
    metrics = {m.name: m for task in tasks for m in summarise(task, answers[task.name])}
    if "job" in answers:
        metrics[STOP_METRIC] = ended(STOP_METRIC, answers["job"])
        metrics[LENGTH_METRIC] = length_ratio(answers["job"])
    return Results(metrics, answers, [1.0, 1.1, 0.9], lock_of(tasks, "template"))


def training_rows(count: int = 60) -> list[Example]:
    return [
        Example(
            f"source-{i % 3}.jsonl",
            i + 1,
            (
                Message("user", f"please tell me about shipment {i} of the {NOUNS[i % 15]}"),
                Message(
                    "assistant",
                    f"shipment {i} left on day {i} with one {NOUNS[i % 15]} and comes on day {i + 3} at noon",
                ),
            ),
        )
        for i in range(count)
    ]
