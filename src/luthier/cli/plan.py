"""`luthier plan`: what would run, and why; or what a tuning of a model takes, from its config alone."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from luthier.cli.console import (
    RUNS,
    AsJson,
    Overrides,
    Recipe,
    Runs,
    console,
    document,
    put,
    recipe_and_overrides,
    work,
)
from luthier.errors import RecipeError

SHOWN = (
    "method",
    "trainable_parameters",
    "total_parameters",
    "reasons",
    "warnings",
    "changes",
    "memory",
    "seconds",
    "learning_rate",
    "processes",
    "parallel",
    "recompute",
    "cheap",
    "flops_per_token",
)


def plan(
    recipe: Recipe = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave nothing behind: no run, no artifacts.")] = False,
    price: Annotated[
        float | None, typer.Option("--price", help="Cost of this machine per hour; shows the cost.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A config.json, a model's folder or a hub id; no recipe, no weights are needed."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="With --model: the tuning; lora when not given.")
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="With --model: the rank of lora and qlora.")] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help="With --model: layers that get adapters, such as q_proj,v_proj.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length",
            help="With --model: tokens in one forward pass; at most 2,048 when not given.",
        ),
    ] = None,
) -> None:
    """Decide method, rates and sizes from rows, model and hardware, with the reasons; nothing is trained."""
    if model is not None:
        from luthier.pipeline.model_plan import plan_model

        if price is not None or dry_run:
            raise RecipeError(
                "without rows there is no time, and so no cost; and nothing is left behind anyway",
                where="--price" if price is not None else "--dry-run",
                fix="leave it out, or name a recipe in place of --model",
            )
        given = [setting for setting in (str(recipe) if recipe else "", *(overrides or ())) if setting]
        names = targets.split(",") if targets else None
        found = plan_model(model, method or "lora", rank, names, length, given)
        put(document(None) | found) if as_json else _tell_model(found)
        return
    if alone := [
        name
        for name, value in (("--method", method), ("--rank", rank), ("--targets", targets), ("--length", length))
        if value is not None
    ]:
        raise RecipeError(
            f"{alone[0]} goes with --model",
            where=alone[0],
            fix="for a recipe write tuning.kind=..., tuning.rank=..., tuning.target_modules=[...]",
        )
    if dry_run:
        path, settings = recipe_and_overrides(recipe, overrides, runs)
        with TemporaryDirectory() as folder:
            run, _ = work(str(path.resolve()), settings, Path(folder), "plan", as_json=as_json)
            found = run.artifact("plan").json("plan.json")
        known = document(None)
    else:
        run, _ = work(recipe, overrides, runs, "plan", as_json=as_json)
        found, known = run.artifact("plan").json("plan.json"), document(run)
    cost = None if price is None or found["seconds"] is None else round(price * found["seconds"] / 3600, 2)
    if as_json:
        put(known | {name: found[name] for name in SHOWN} | {"cost": cost})
    else:
        _tell(found, cost)


def _parameters(found: dict[str, Any]) -> str:
    share = found["trainable_parameters"] / found["total_parameters"]
    return f"{found['trainable_parameters']:,} parameters trained of {found['total_parameters']:,} ({share:.2%})"


def _memory(found: dict[str, Any]) -> str:
    return "memory: " + ", ".join(f"{k} {v / 1e6:,.0f} MB" for k, v in found["memory"].items() if round(v / 1e6))


def _tell(found: dict[str, Any], cost: float | None) -> None:
    screen = console(out=True)
    screen.print(f"{found['method']}: {_parameters(found)}, in {found['dtype']}")
    for reason in found["reasons"]:
        screen.print(f"  - {reason}")
    screen.print(f"learning rate: {found['learning_rate']:g}")
    for warning in found["warnings"]:
        screen.print(f"warning: {warning}")
    screen.print(_memory(found))
    screen.print(f"compute: {found['flops_per_token'] / 1e6:,.1f} MFLOP per token")
    if found["seconds"] is not None:
        screen.print(f"time: about {found['seconds']:,.0f} s of training")
    if cost is not None:
        screen.print(f"cost: about {cost:,.2f}")
    if found["changes"]:
        screen.print("what would change it:")
    for change in found["changes"]:
        screen.print(f"  - {change}")


def _tell_model(found: dict[str, Any]) -> None:
    screen = console(out=True)
    screen.print(f"{found['method']} of {found['model']}: {_parameters(found)}, in {found['dtype']}")
    screen.print(f"learning rate: {found['learning_rate']:g}")
    screen.print(f"compute: {found['flops_per_token'] / 1e9:,.3f} GFLOP per token at a length of {found['length']:,}")
    screen.print(_memory(found))
    screen.print(f"this machine: {found['hardware']}; {found['fits']}")
    for card, needs in found["cards"].items():
        screen.print(f"{card}: {needs['memory'] / 1e9:,.1f} GB, {'it fits' if needs['fits'] else 'it does not fit'}")
