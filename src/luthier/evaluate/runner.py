"""One evaluation: all tasks asked, the validation loss measured, and everything written down."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from luthier.artifact import write_text
from luthier.evaluate.answers import FORMAT_METRIC, LOSS_METRIC, PERPLEXITY, STOP_METRIC
from luthier.evaluate.asking import Candidate, Progress, ask
from luthier.evaluate.items import Task
from luthier.evaluate.likelihood import row_losses
from luthier.evaluate.marking import summarise
from luthier.evaluate.metrics import mean_per_token, share
from luthier.evaluate.summaries import ended
from luthier.text import TokenRows
from luthier.types import Answer, Metric

PARSING = ("number", "json", "regex", "final_number")
"""Scorers that ask for a form, by the beginning of their names."""


def evaluate(
    candidate: Candidate,
    tasks: Sequence[Task],
    validation: TokenRows,
    out: Path,
    *,
    progress: Progress = lambda _: None,
) -> dict[str, Metric]:
    """Answer every task, measure the validation loss, and write `metrics.json`, `answers.jsonl`, `losses.json`.

    Returns:
        The metrics: the validation loss and perplexity, those of each task, and of the first task that is written
        the share of answers that the model ended itself and, where its scorer asks for a form, that have it.
    """
    answers = {task.name: ask(candidate, task, progress) for task in tasks}
    sums, counts = row_losses(candidate.model, validation, packed=candidate.packed)
    loss = mean_per_token(LOSS_METRIC, sums, counts)
    edges = (math.exp(loss.value), math.exp(loss.low), math.exp(loss.high))
    metrics = [loss, Metric(PERPLEXITY, *edges, loss.n, lower_is_better=True)]
    for task in tasks:
        metrics += summarise(task, answers[task.name])
    metrics += _form([task for task in tasks if task.role == "task" and task.kind == "generate"], answers)
    write_text(out / "answers.jsonl", "".join(line(name, a) for name, given in answers.items() for a in given))
    write_text(out / "losses.json", json.dumps({"sums": sums, "tokens": counts}))
    found = {metric.name: metric for metric in metrics}
    write_text(out / "metrics.json", json.dumps({k: asdict(v) for k, v in found.items()}, indent=1) + "\n")
    return found


def _form(written: Sequence[Task], answers: dict[str, list[Answer]]) -> list[Metric]:
    """What holds of an answer whatever it says: ended by the model, in the form that was asked for."""
    if not written:
        return []
    found = [ended(STOP_METRIC, answers[written[0].name])]
    parsing = [task for task in written if task.scoring.removeprefix("generate ").startswith(PARSING)]
    if parsing:
        given = answers[parsing[0].name]
        found.append(share(FORMAT_METRIC, [float(a.outcome not in ("empty", "unparsed")) for a in given]))
    return found


def line(task: str, answer: Answer) -> str:
    """An answer as a line of `answers.jsonl`."""
    row = {"task": task, **asdict(answer), "prompt": [message.to_json() for message in answer.prompt]}
    return json.dumps(row, ensure_ascii=False) + "\n"
