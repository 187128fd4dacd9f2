"""One evaluation: all tasks asked, the validation loss measured, and everything written down."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from luthier.artifact import write_text
from luthier.evaluate.answers import (
    FORMAT_METRIC,
    GAP,
    LOSS_METRIC,
    PERPLEXITY,
    PREFERENCE,
    STOP_METRIC,
    Results,
    write_answers,
)
from luthier.evaluate.asking import Candidate, Progress, ask
from luthier.evaluate.cache import Memory
from luthier.evaluate.calibration import calibrate
from luthier.evaluate.gate import COMPARABLE
from luthier.evaluate.items import Task
from luthier.evaluate.likelihood import row_losses
from luthier.evaluate.lock import lock_of
from luthier.evaluate.marking import summarise
from luthier.evaluate.metrics import mean_per_token, share
from luthier.evaluate.preferences import gaps, pair_metrics, preferences
from luthier.evaluate.summaries import ended, length_ratio
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
    calibration: int = 0,
    progress: Progress = lambda _: None,
    pairs: bool = False,
    scores: bool = False,
    trained: TokenRows | None = None,
) -> dict[str, Metric]:
    """Answer every task, measure the validation loss, and write it down.

    The files are `metrics.json`, `answers.jsonl`, `losses.json`, the lock `suites.json`, and `calibration.json`.

    Args:
        candidate: the model.
        tasks: what to ask.
        validation: rows to measure the loss on.
        out: an existing folder.
        calibration: items of each task that are asked again in other batches; 0 for none.
        progress: called with the number of answers that came.
        pairs: whether the validation rows are pairs; then the share of chosen answers preferred is a metric too, and
            the loss is that of the chosen ones.
        scores: whether the model is a reward model, which has no loss and answers nothing.
        trained: some of the training rows; how much higher the loss is on validation rows is a metric then.

    Returns:
        The metrics: the validation loss and perplexity, those of each task, and of the first task that is written
        the share of answers that the model ended itself and, where its scorer asks for a form, that have it.
    """
    answers = {task.name: ask(candidate, task, progress) for task in tasks}
    sums, counts, metrics = _loss(candidate, validation, pairs=pairs) if not scores else ([], [], [])
    for task in tasks:
        metrics += summarise(task, answers[task.name])
    metrics += _form([task for task in tasks if task.role == "task" and task.kind == "generate"], answers)
    if trained is not None and not scores:
        metrics.append(_gap(metrics[0], _loss(candidate, trained, pairs=pairs)[2][0]))
    if pairs:
        ahead = gaps(candidate.model, validation, packed=candidate.packed)
        answers[PREFERENCE] = preferences(ahead, validation, candidate.tokenizer)
        metrics += pair_metrics(ahead, validation, trained, scores=scores)
    write_text(out / "answers.jsonl", write_answers(answers))
    write_text(out / "suites.json", json.dumps(lock_of(tasks, candidate.tokenizer.chat_template or ""), indent=1))
    noise = calibrate(tasks, answers, partial(_again, candidate), calibration) if calibration else {}
    write_text(out / "calibration.json", json.dumps(noise, indent=1))
    write_text(out / "losses.json", json.dumps({"sums": sums, "tokens": counts}))
    found = {metric.name: metric for metric in metrics}
    write_text(out / "metrics.json", json.dumps({k: asdict(v) for k, v in found.items()}, indent=1) + "\n")
    return found


def _loss(candidate: Candidate, validation: TokenRows, *, pairs: bool) -> tuple[list[float], list[int], list[Metric]]:
    """Each row's loss and trained tokens, and the metrics of all; of pairs the chosen rows."""
    rows = validation.select(range(0, len(validation), 2)) if pairs else validation
    sums, counts = row_losses(candidate.model, rows, packed=candidate.packed)
    loss = mean_per_token(LOSS_METRIC, sums, counts)
    edges = (math.exp(loss.value), math.exp(loss.low), math.exp(loss.high))
    return sums, counts, [loss, Metric(PERPLEXITY, *edges, loss.n, lower_is_better=True)]


def _gap(validation: Metric, training: Metric) -> Metric:
    """How much higher the loss is on rows that were not trained, in nats per token; the rows are independent."""
    value = validation.value - training.value
    half = math.hypot(validation.high - validation.low, training.high - training.low) / 2
    return Metric(GAP, value, value - half, value + half, validation.n, lower_is_better=True)


def _form(written: Sequence[Task], answers: dict[str, list[Answer]]) -> list[Metric]:
    """What holds of an answer whatever it says: ended by the model, in the form that was asked for."""
    if not written:
        return []
    found = [ended(STOP_METRIC, answers[written[0].name])]
    parsing = [task for task in written if scorer_of(task).startswith(PARSING)]
    if parsing:
        given = answers[parsing[0].name]
        found.append(share(FORMAT_METRIC, [float(a.outcome not in ("empty", "unparsed")) for a in given]))
    if scorer_of(written[0]) in COMPARABLE:
        found.append(length_ratio(answers[written[0].name]))
    return found


def scorer_of(task: Task) -> str:
    """The name of a task's scorer."""
    return task.scoring.removeprefix("generate ")


def _again(candidate: Candidate, task: Task, tokens: int) -> list[Answer]:
    return ask(replace(candidate, memory=Memory(), batch_tokens=tokens), task)


def with_answers(
    results: Results, candidate: Candidate, tasks: Sequence[Task], more: Sequence[Task], progress: Progress
) -> Results:
    """Results with the answers to further items of their tasks, and the metrics of all.

    Args:
        results: of the first look.
        candidate: the model they are of.
        tasks: as they were asked.
        more: the same tasks with the items to ask now.
        progress: called with the number of answers that came.
    """
    answers = {**results.answers}
    metrics = {**results.metrics}
    for task in more:
        answers[task.name] = [*answers[task.name], *ask(candidate, task, progress)]
        metrics |= {m.name: m for m in summarise(task, answers[task.name])}
    whole = [replace(task, items=(*task.items, *task.reserve), reserve=()) for task in tasks]
    lock = lock_of(whole, candidate.tokenizer.chat_template or "")
    return replace(results, metrics=metrics, answers=answers, lock=lock)
