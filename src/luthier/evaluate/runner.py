"""Asking a model all tasks and writing down every answer."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from luthier.artifact import write_text
from luthier.evaluate.answers import LOSS_METRIC, PERPLEXITY, STOP_METRIC
from luthier.evaluate.metrics import mean_per_token, share
from luthier.evaluate.tasks import Task
from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.generate import generate
from luthier.models.logprobs import batch_logprobs
from luthier.models.tuning import causal_model
from luthier.text import TokenRows, render_prompt
from luthier.text.tokenizer import Tokenizer
from luthier.types import Answer, Metric


def evaluate(
    model: Any,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    suites: Sequence[Task],
    validation: TokenRows,
    out: Path,
    *,
    stop: Sequence[int],
    max_new_tokens: int,
    packed: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Metric]:
    """Answer every task, measure the validation loss, and write `metrics.json`, `answers.jsonl`, `losses.json`.

    Returns:
        The metrics: the validation loss and perplexity, one per task and suite, and the share of answers to the
        validation prompts that the model ended itself.
    """
    answers = {task.name: ask(model, tokenizer, task, stop, max_new_tokens, progress) for task in (*tasks, *suites)}
    sums, counts = row_losses(model, validation, packed=packed)
    loss = mean_per_token(LOSS_METRIC, sums, counts)
    metrics = [loss, Metric(PERPLEXITY, math.exp(loss.value), math.exp(loss.low), math.exp(loss.high), loss.n)]
    metrics += [share(name, [a.score for a in given]) for name, given in answers.items()]
    if tasks:
        metrics.append(share(STOP_METRIC, [float(a.stopped) for a in answers[tasks[0].name]]))
    write_text(out / "answers.jsonl", "".join(_line(name, a) for name, given in answers.items() for a in given))
    write_text(out / "losses.json", json.dumps({"sums": sums, "tokens": counts}))
    found = {metric.name: metric for metric in metrics}
    write_text(out / "metrics.json", json.dumps({k: asdict(v) for k, v in found.items()}, indent=1) + "\n")
    return found


def ask(
    model: Any,
    tokenizer: Tokenizer,
    task: Task,
    stop: Sequence[int],
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """The model's answers to a task, scored; an answer that never stops scores what its text earns."""
    prompts = [render_prompt(item.prompt, tokenizer) for item in task.items]
    given = generate(model, tokenizer, prompts, stop=stop, max_new_tokens=max_new_tokens, progress=progress)
    return [
        Answer(i.id, i.prompt, i.expected, g.text, task.score(g.text, i.expected), g.stopped, i.group)
        for i, g in zip(task.items, given, strict=True)
    ]


@torch.no_grad()
def row_losses(model: Any, rows: TokenRows, *, packed: bool, budget: int = 4096) -> tuple[list[float], list[int]]:
    """Summed negative log-likelihood (nats) and number of trained tokens of each row."""
    model.eval()
    place = next(model.parameters()).device
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with attention(causal_model(model), NAME):
        for numbers in best_fit(rows.lengths.tolist(), budget):
            batch = lay_out(rows, numbers, packed=packed).to(place)
            each = torch.zeros(len(numbers), dtype=torch.float64, device=place)
            each.index_add_(0, batch.rows, -batch_logprobs(model, batch).double())
            labels = torch.bincount(batch.rows, minlength=len(numbers)).tolist()
            for number, loss, n in zip(numbers, each.tolist(), labels, strict=True):
                sums[number], counts[number] = loss, n
    return sums, counts


def _line(task: str, answer: Answer) -> str:
    row = {"task": task, **asdict(answer), "prompt": [message.to_json() for message in answer.prompt]}
    return json.dumps(row, ensure_ascii=False) + "\n"
