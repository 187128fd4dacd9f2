"""`luthier plan`: what would run, and why."""

from typing import Annotated

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def plan(
    recipe: Recipe = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same: a plan never trains. Kept for scripts.")] = True,
) -> None:
    """Decide method, rates and sizes from rows, model and hardware, with the reasons; nothing is trained."""
    del dry_run
    run, _ = work(recipe, overrides, runs, "plan", as_json=as_json)
    found = run.artifact("plan").json("plan.json")
    if as_json:
        named = ("method", "trainable_parameters", "total_parameters", "reasons", "memory", "seconds", "learning_rate")
        put(document(run, **{name: found[name] for name in named}))
        return
    screen = console(out=True)
    share = found["trainable_parameters"] / found["total_parameters"]
    screen.print(
        f"[bold]{found['method']}[/]: {found['trainable_parameters']:,} parameters trained of "
        f"{found['total_parameters']:,} ({share:.2%}), in {found['dtype']}"
    )
    for reason in found["reasons"]:
        screen.print(f"  - {reason}")
    parts = ", ".join(f"{k} {v / 1e6:,.0f} MB" for k, v in found["memory"].items())
    screen.print(f"memory: {parts}")
    screen.print(f"compute: {found['flops_per_token'] / 1e6:,.1f} MFLOP per token")
    if found["seconds"] is not None:
        screen.print(f"time: about {found['seconds']:,.0f} s of training")
