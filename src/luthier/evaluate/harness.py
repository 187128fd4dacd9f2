"""Tasks of lm-evaluation-harness by name, their results item by item, so that they pair like any other suite.

The harness makes prompts and scores; Luthier answers, with the adapter live and choices packed. Needs the extra
`lm-eval`, and a task whose data is on this machine or that a hub can be asked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from luthier.errors import DataError, Missing, RecipeError
from luthier.evaluate.asking import Candidate, said
from luthier.evaluate.items import Decoding, Item, Task
from luthier.types import Answer, Message

FORMAT = "lm-eval"
ROOM = 256
MEASURES = ("exact_match", "acc", "acc_norm", "f1", "em", "pass@1", "prompt_level_strict_acc")
"""The measure that is a task's score: the first of these that it has."""


@cache
def _harness() -> Any:
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise Missing(
            "tasks of lm-evaluation-harness need the package lm-eval",
            where=f"evaluate: {FORMAT}",
            fix="pip install 'luthier[lm-eval]'",
        ) from error
    return lm_eval, TaskManager


def ask_harness(candidate: Candidate, names: Sequence[Any], *, most: int | None = None) -> dict[str, list[Answer]]:
    """The answers to the harness's tasks, scored by it.

    Args:
        candidate: the model.
        names: tasks by name, or tasks made in code.
        most: items of each task.

    Returns:
        By task, an answer an item, `parts` holding every measure of it.

    Raises:
        Missing: lm-eval is not installed.
        RecipeError: there is no such task.
        DataError: its data cannot be had.
    """
    lm_eval, manager = _harness()
    known = manager()
    unknown = [name for name in names if isinstance(name, str) and not known.match_tasks([name])]
    if unknown:
        raise RecipeError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}", where="evaluate", fix="lm-eval ls tasks"
        )
    try:
        found = lm_eval.simple_evaluate(
            _model(candidate), tasks=list(names), task_manager=known, limit=most, bootstrap_iters=0, log_samples=True
        )
    except (OSError, ConnectionError, ValueError) as error:
        raise DataError(
            f"lm-evaluation-harness cannot run: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=", ".join(map(str, names)),
            fix="its data comes from the hub: connect, or fetch it before",
        ) from error
    return {name: [_answer(sample, name) for sample in rows] for name, rows in found["samples"].items()}


def ask_all(candidate: Candidate, task: Task) -> list[Answer]:
    """The answers to one task by its name here; of a group of tasks all, each being a slice of the result."""
    found = ask_harness(candidate, [task.name.removeprefix(f"{FORMAT}:")])
    if len(found) == 1:
        return next(iter(found.values()))
    return [replace(answer, item=f"{name}/{answer.item}") for name, rows in found.items() for answer in rows]


def _answer(sample: dict[str, Any], group: str) -> Answer:
    measures = {str(k): float(v) for k, v in sample.items() if k in sample.get("metrics", ()) and _is_number(v)}
    name = next((m for m in MEASURES if m in measures), next(iter(measures), ""))
    prompt = str(sample["arguments"][0][0]) if sample.get("arguments") else ""
    replies = sample.get("filtered_resps") or [""]
    return Answer(
        item=str(sample["doc_id"]),
        prompt=(Message("user", prompt),),
        expected=str(sample.get("target", "")),
        answer=replies[0] if isinstance(replies[0], str) else str(replies[0]),
        score=measures.get(name, 0.0),
        stopped=True,
        group=group,
        outcome="scored" if measures else "failed",
        parts=measures,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | bool) or hasattr(value, "__float__")


def _model(candidate: Candidate) -> Any:
    """The candidate in the harness's own shape."""
    from lm_eval.api.model import LM

    class Asked(LM):  # type: ignore[misc]
        """Answers the harness's requests by Luthier's asking."""

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            """Log-likelihoods of continuations; requests with one context are one item with choices."""
            by_context: dict[str, list[int]] = {}
            for at, request in enumerate(requests):
                by_context.setdefault(request.args[0], []).append(at)
            items: list[Item] = []
            for context, places in by_context.items():
                ends = [requests[k].args[1] for k in places]
                blank = ends[0][: len(ends[0]) - len(ends[0].lstrip())] or " "
                choices = tuple(end.removeprefix(blank) for end in ends)
                items.append(Item(str(len(items)), text=context + blank, expected=choices[0], choices=choices))
            found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
            answers = said(candidate, Task("harness", tuple(items), kind="choose"))
            for rows, places in zip(answers, by_context.values(), strict=True):
                values = rows[0].get("logprobs")
                if values is None:
                    raise DataError("a prompt of the harness is longer than the model's window", where=FORMAT)
                for k, value in zip(places, values, strict=True):
                    found[k] = (value, False)
            return found

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            """Log-likelihoods of whole texts."""
            items = tuple(Item(str(k), text="", expected=r.args[0]) for k, r in enumerate(requests))
            return [-rows[0]["nats"] for rows in said(candidate, Task("harness", items, kind="likelihood"))]

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            """Greedy answers, cut at the task's stop texts."""
            found: list[str] = []
            for request in requests:
                context, wanted = request.args
                until = wanted.get("until") or []
                stops = tuple([until] if isinstance(until, str) else until)
                decoding = Decoding(int(wanted.get("max_gen_toks", ROOM)), stop=stops)
                rows = said(candidate, Task("harness", (Item("0", text=context),), decoding=decoding))
                found.append(str(rows[0][0].get("text", "")))
            return found

    return Asked()
