"""`luthier handover`: files and a command line for an engine of many GPUs."""

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def handover(
    recipe: Recipe = None,
    overrides: Overrides = None,
    to: Annotated[str, typer.Option("--to", help="verl or openrlhf.")] = "verl",
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="FOLDER")] = Path("handover"),
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write a recipe's prompts or pairs for verl or OpenRLHF, with rewards and a ready command line."""
    from luthier.pipeline.handover import hand_over

    run, _ = work(recipe, overrides, runs, "plan", as_json=as_json)
    written = hand_over(run, to, out)
    if as_json:
        put(document(run, files=[str(path) for path in written]))
        return
    screen = console(out=True)
    for path in written:
        screen.print(str(path))
    screen.print(f"in an environment with {to}: sh {written[-1]}")
