"""`luthier bench`: measurements on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.console import AsJson, Overrides, console, document, put


def bench(
    what: Annotated[str, typer.Argument(help="`methods`: every tuning on the same task and budget.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Where the table, the plot and the runs go.")] = Path(
        "bench-methods"
    ),
    only: Annotated[str | None, typer.Option("--only", help="Some of the methods, such as full,lora.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each way to tune trains, costs, learns and forgets, on the bundled base."""
    from luthier.artifact import make_folder, write_text
    from luthier.errors import RecipeError
    from luthier.pipeline.methods import METHODS, measure, plot, table, to_json

    if what != "methods":
        raise RecipeError(f"there is nothing to measure called '{what}'", fix="luthier bench methods")
    names = [name.strip() for name in only.split(",")] if only else list(METHODS)
    if unknown := [name for name in names if name not in METHODS]:
        raise RecipeError(
            f"unknown methods: {', '.join(unknown)}; there are: {', '.join(METHODS)}", where="--only", fix="name these"
        )
    screen = console()
    make_folder(out)
    found = measure(out / "runs", names, overrides or (), lambda name: screen.print(f"measuring {name}"))
    write_text(out / "methods.md", table(found))
    write_text(out / "methods.svg", plot(found))
    write_text(out / "methods.json", json.dumps(to_json(found), indent=1) + "\n")
    if as_json:
        put(document(None, methods=to_json(found)))
    else:
        console(out=True).print(table(found))
        screen.print(f"written to {out}: methods.md, methods.svg, methods.json")
