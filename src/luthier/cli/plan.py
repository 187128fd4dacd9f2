"""`luthier plan`: what would run, and why."""

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


def plan(
    recipe: Recipe = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave nothing behind: no run, no artifacts.")] = False,
) -> None:
    """Decide method, rates and sizes, with reasons. Nothing is trained; rows, model and hardware decide."""
    if dry_run:
        path, settings = recipe_and_overrides(recipe, overrides, runs)
        with TemporaryDirectory() as folder:
            run, _ = work(str(path.resolve()), settings, Path(folder), "plan", as_json=as_json)
            found = run.artifact("plan").json("plan.json")
        known = document(None)
    else:
        run, _ = work(recipe, overrides, runs, "plan", as_json=as_json)
        found, known = run.artifact("plan").json("plan.json"), document(run)
    if as_json:
        named = ("method", "trainable_parameters", "total_parameters", "reasons", "memory", "seconds", "learning_rate")
        put(known | {name: found[name] for name in named})
    else:
        _tell(found)


def _tell(found: dict[str, Any]) -> None:
    screen = console(out=True)
    share = found["trainable_parameters"] / found["total_parameters"]
    screen.print(
        f"{found['method']}: {found['trainable_parameters']:,} parameters trained of "
        f"{found['total_parameters']:,} ({share:.2%}), in {found['dtype']}",
        style="bold",
    )
    for reason in found["reasons"]:
        screen.print(f"  - {reason}")
    parts = ", ".join(f"{k} {v / 1e6:,.0f} MB" for k, v in found["memory"].items())
    screen.print(f"memory: {parts}")
    screen.print(f"compute: {found['flops_per_token'] / 1e6:,.1f} MFLOP per token")
    if found["seconds"] is not None:
        screen.print(f"time: about {found['seconds']:,.0f} s of training")
