"""An evaluation as it lies on disk: the names of its metrics, and its answers. Read without torch."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.evaluate.resample import by_cluster
from luthier.types import Answer, Message, Metric

STOP_METRIC = "ends_with_stop"
LOSS_METRIC = "validation_loss"
PERPLEXITY = "perplexity"
FORMAT_METRIC = "format_valid"
LENGTH_METRIC = "length_ratio"
PREFERENCE = "preference"
BY_LENGTH, CALIBRATION = "preference_by_length", "preference_calibration"
GAP = "generalisation_gap"
OWN_METRICS = (STOP_METRIC, FORMAT_METRIC, LENGTH_METRIC)


def read_answers(lines: Iterable[str]) -> dict[str, list[Answer]]:
    """Read `answers.jsonl`: answers by task, in the order they were asked."""
    answers: dict[str, list[Answer]] = {}
    for line in lines:
        row = json.loads(line)
        prompt = tuple(Message.from_json(message) for message in row.pop("prompt"))
        answers.setdefault(row.pop("task"), []).append(Answer(prompt=prompt, **row))
    return answers


def write_answers(answers: Mapping[str, Sequence[Answer]]) -> str:
    """The content of `answers.jsonl`."""
    return "".join(_line(task, answer) for task, given in answers.items() for answer in given)


def _line(task: str, answer: Answer) -> str:
    row = {name: getattr(answer, name) for name in Answer.__slots__}
    row |= {"prompt": [message.to_json() for message in answer.prompt], "parts": dict(answer.parts)}
    return json.dumps({"task": task, **row}, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Results:
    """One evaluation.

    Attributes:
        metrics: by name.
        answers: by task.
        losses: the validation loss of each row, nats per token.
        lock: what was asked, see `lock`.
    """

    metrics: Mapping[str, Metric]
    answers: Mapping[str, Sequence[Answer]]
    losses: Sequence[float] = ()
    lock: Mapping[str, Any] = field(default_factory=lambda: {"suites": {}})

    @classmethod
    def read(cls, file: Callable[[str], Any], lines: Iterable[str]) -> "Results":
        """From the files of an evaluation.

        Args:
            file: gives the content of a JSON file by its name.
            lines: those of `answers.jsonl`.
        """
        losses = file("losses.json")
        return cls(
            {name: Metric(**value) for name, value in file("metrics.json").items()},
            read_answers(lines),
            [s / max(1, n) for s, n in zip(losses["sums"], losses["tokens"], strict=True)],
            file("suites.json"),
        )

    def role(self, task: str) -> str:
        """What a task is for."""
        return str(self.lock["suites"].get(task, {}).get("role", "task"))

    def task_of(self, metric: str) -> str:
        """The task that a metric is measured on: its own name, or what stands before the dot."""
        if metric in self.answers:
            return metric
        if metric in OWN_METRICS:
            return next((name for name in self.answers if self.role(name) == "task"), "")
        return next((name for name in self.answers if metric.startswith(name + ".")), "")

    def scores(self, metric: str) -> dict[str, float]:
        """The scores a metric is the mean of, by item, higher being better; samples and families are averaged."""
        if metric in (LOSS_METRIC, PERPLEXITY):
            return {str(row): -loss for row, loss in enumerate(self.losses)}
        task = self.task_of(metric)
        good = [answer for answer in self.answers.get(task, ()) if answer.outcome != "failed"]
        if metric == STOP_METRIC:
            values = [float(answer.stopped) for answer in good]
        elif metric == FORMAT_METRIC:
            values = [float(answer.outcome == "scored") for answer in good]
        elif metric == task:
            values = [answer.score for answer in good]
        else:
            part = metric.removeprefix(task + ".")
            values = [answer.parts.get(part, 0.0) for answer in good]
        # A likelihood's score is the negative loss already, though its metric, perplexity, is better when lower.
        flip = metric in self.metrics and self.metrics[metric].lower_is_better and not _likelihood(good)
        items = [answer.cluster for answer in good]
        means = by_cluster([-v if flip else v for v in values], items)
        return dict(zip(dict.fromkeys(items), means, strict=True))


def _likelihood(answers: Sequence[Answer]) -> bool:
    return bool(answers) and "nats" in answers[0].parts


def pairs(before: Results, after: Results, metric: str, left_out: Iterable[str] = ()) -> dict[str, tuple[float, float]]:
    """The scores of the items that both answered, by item; those left out are flaky or burnt."""
    old, new, out = before.scores(metric), after.scores(metric), set(left_out)
    return {item: (old[item], new[item]) for item in old if item in new and item not in out}
