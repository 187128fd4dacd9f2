"""What would change the plan: other numbers of rows and other machines, each decided anew."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from luthier.errors import RecipeError
from luthier.models.facts import ModelFacts
from luthier.plan.decide import FEW_ROWS, MANY_ROWS, Count, Plan, decide
from luthier.plan.hardware import Gpu, Hardware
from luthier.recipe import Auto, Recipe

MACHINES: dict[str, tuple[Gpu, ...]] = {
    "a 24 GB card": (Gpu("NVIDIA GeForce RTX 4090", 24 * 10**9),),
    "an 80 GB card": (Gpu("NVIDIA H100", 80 * 10**9),),
    "eight 80 GB cards": (Gpu("NVIDIA H100", 80 * 10**9),) * 8,
}
NOTICEABLE = 600
"""Seconds from which it is worth saying how much another machine would save."""


def with_changes(
    plan: Plan,
    recipe: Recipe,
    dataset: Mapping[str, Any],
    facts: ModelFacts,
    count: Count,
    dtype_on: Callable[[bool], str],
) -> Plan:
    """The plan with a sentence for each change that would lead to another one, and one for those that would not.

    Args:
        plan: as decided.
        recipe: as given to `decide`; likewise `dataset`, `facts` and `count`.
        dataset: the dataset's facts.
        facts: the model's facts.
        count: counts trained parameters.
        dtype_on: the number format on a machine with a GPU (true) or without.
    """
    found: list[tuple[str, Mapping[str, Any], Hardware, str]] = []
    rows = dataset["train"]["rows"]
    for border in (FEW_ROWS, MANY_ROWS + 1):
        if rows < border and isinstance(recipe.tuning, Auto):
            more = _scaled(dataset, border / max(1, rows))
            found.append((f"with {border - rows:,} more rows", more, plan.hardware, plan.dtype))
    for name, gpus in MACHINES.items():
        if [gpu.memory for gpu in gpus] != [gpu.memory for gpu in plan.hardware.gpus]:
            found.append((f"with {name}", dataset, replace(plan.hardware, gpus=gpus), dtype_on(True)))
    asked = recipe.model_copy(update={"training": recipe.training.model_copy(update={"devices": None})})
    sentences, same = [], []
    for name, rows_then, machine, dtype in found:
        given = recipe if machine == plan.hardware else asked
        try:
            other = decide(given, rows_then, facts, machine, dtype, count)
        except RecipeError as error:
            sentences.append(f"{name}: {error.what}")
            continue
        if said := _difference(plan, other):
            sentences.append(f"{name}: {said}")
        else:
            same.append(name)
    if same:
        sentences.append(f"no change {', '.join(same)}")
    return replace(plan, changes=sentences)


def _scaled(dataset: Mapping[str, Any], factor: float) -> dict[str, Any]:
    train = dict(dataset["train"])
    for name in ("rows", "tokens", "trained_tokens"):
        train[name] = round(train[name] * factor)
    return {**dataset, "train": train}


def _difference(plan: Plan, other: Plan) -> str:
    said = []
    if other.method != plan.method:
        said.append(f"{other.method} instead of {plan.method}")
    elif (rank := getattr(other.tuning, "rank", None)) != getattr(plan.tuning, "rank", None):
        said.append(f"rank {rank}")
    slow = max(other.seconds or 0, plan.seconds or math.inf) > NOTICEABLE
    if other.parallel != plan.parallel and other.processes > 1 and (said or slow):
        said.append(f"{other.processes} processes with {other.parallel}")
    if (other.recompute, other.cheap) != (plan.recompute, plan.cheap):
        again = other.recompute or other.cheap
        said.append("activations recomputed" if again else "no activations recomputed")
    same_work = other.hardware == plan.hardware
    if slow and not same_work and other.seconds and plan.seconds and not 0.5 < other.seconds / plan.seconds < 2:
        said.append(f"about {_time(other.seconds)} of training")
    return ", ".join(said)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
