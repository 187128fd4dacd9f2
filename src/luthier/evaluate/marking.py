"""From what was said to scored answers: apart from asking, so that stored outputs can be marked without a model."""

import math
from collections.abc import Sequence

from luthier.evaluate.cache import Said
from luthier.evaluate.items import Item, Task
from luthier.evaluate.summaries import means
from luthier.types import Answer, Metric, Score

TOO_LONG = {"too_long": True}
"""Said of a prompt for which the model's window has no room: it was not asked, and nothing was cut."""


def mark(task: Task, items: Sequence[Item], said: Sequence[Sequence[Said]]) -> list[Answer]:
    """The answers of a task, scored: for each item as many as there are samples."""
    asked = [(item, row, k) for item, rows in zip(items, said, strict=True) for k, row in enumerate(rows)]
    if task.kind != "generate":
        return [_likelihood(task, item, row) for item, row, _ in asked]
    there = [(item, row) for item, row, _ in asked if not row.get("too_long")]
    if task.score_all:
        scores = iter(task.score_all([row["text"] for _, row in there], [item for item, _ in there]))
    else:
        scores = iter([task.score(row["text"], item) for item, row in there])
    return [
        _written(item, row, Score(0.0, "failed") if row.get("too_long") else next(scores), k) for item, row, k in asked
    ]


def _likelihood(task: Task, item: Item, said: Said) -> Answer:
    if said.get("too_long"):
        return _written(item, said, Score(0.0, "failed"), 0)
    if task.kind == "choose":
        return _chosen(item, said["logprobs"])
    nats, tokens = float(said["nats"]), int(said["tokens"])
    parts = {"nats": nats, "tokens": float(tokens), "bytes": float(said["bytes"])}
    return Answer(item.id, item.asked, item.expected, "", -nats / max(1, tokens), True, item.group, parts=parts)


def _written(item: Item, said: Said, score: Score, sample: int) -> Answer:
    return Answer(
        item=item.id,
        prompt=item.asked,
        expected=item.expected,
        answer=said.get("text", ""),
        score=score.value,
        stopped=said.get("stopped", False),
        group=item.group,
        outcome=score.outcome,
        parts=dict(score.parts),
        tokens=said.get("tokens", 0),
        sample=sample,
        family=item.family,
    )


def _chosen(item: Item, logprobs: Sequence[float]) -> Answer:
    """The likeliest choice; `acc_norm` weighs each by its length in characters, as lm-evaluation-harness does."""
    right = item.choices.index(item.expected)
    best = max(range(len(logprobs)), key=lambda k: logprobs[k])
    per_sign = [x / max(1, len(choice)) for x, choice in zip(logprobs, item.choices, strict=True)]
    normed = max(range(len(per_sign)), key=lambda k: per_sign[k])
    total = math.log(sum(math.exp(x - max(logprobs)) for x in logprobs)) + max(logprobs)
    parts = {"acc_norm": float(normed == right), "share": math.exp(logprobs[right] - total)}
    said = item.choices[best]
    return Answer(item.id, item.asked, item.expected, said, float(best == right), True, item.group, parts=parts)


def summarise(task: Task, answers: Sequence[Answer]) -> list[Metric]:
    """The metrics of a task."""
    return (task.summarise or means)(task.name, answers)
