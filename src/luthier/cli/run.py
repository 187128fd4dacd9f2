"""`luthier run`: every stale stage."""

from pathlib import Path
from typing import Annotated

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


def run(
    recipe: Recipe = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which stages would run, and run none.")] = False,
) -> None:
    """Take raw rows to a judged and released model. Stages that are up to date are not run again."""
    from luthier.errors import LuthierError
    from luthier.pipeline.summary import summary

    if dry_run:
        _would_run(recipe, overrides, runs, as_json=as_json)
        return
    try:
        done, _ = work(recipe, overrides, runs, "release", as_json=as_json)
    except LuthierError as error:
        failed = getattr(error, "run", None)
        if failed is not None and not as_json and "verdict" in failed.artifacts:
            console(out=True).print(summary(failed))
        raise
    if as_json:
        put(document(done))
    else:
        console(out=True).print(summary(done))


def _would_run(recipe: str | None, overrides: list[str] | None, runs: Path, *, as_json: bool) -> None:
    from luthier.pipeline import stale_stages

    path, settings = recipe_and_overrides(recipe, overrides, runs)
    found = stale_stages(path, settings, root=runs)
    if as_json:
        put(document(None, stages=found))
        return
    screen = console(out=True)
    for name, state in found.items():
        screen.print(f"{name:<11} {state}")
    screen.print("nothing was run")
