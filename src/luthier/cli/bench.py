"""`luthier bench`: measurements on this machine."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from luthier.cli.console import AsJson, Overrides, console, document, put

WHAT = ("methods", "train")
USUAL = "trl-default,trl-tuned,plain-peft,luthier-fp32,luthier-int8"
USUAL_PAIRS = "trl-default,trl-tuned,luthier-whole-pairs,luthier-fp32"


def bench(
    what: Annotated[
        str,
        typer.Argument(help="`methods`: every tuning on the same task and budget. `train`: speed against other tools."),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where it all goes; bench-methods or bench-train if not given.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="Some of the methods, such as full,lora.")] = None,
    arms: Annotated[
        str | None, typer.Option("--arms", help=f"train: the arms, in order; {USUAL} if not given.")
    ] = None,
    shape: Annotated[str, typer.Option("--shape", help="train: shape of the model, such as 42M.")] = "42M",
    profile: Annotated[
        str, typer.Option("--profile", help="train: P1 full packs, P2 chats, P3 long documents, P4 pairs.")
    ] = "P2",
    tuning: Annotated[str, typer.Option("--tuning", help="train: lora, qlora or full.")] = "lora",
    optimizer: Annotated[
        Literal["adamw", "adamw_8bit"], typer.Option("--optimizer", help="train: of all arms alike.")
    ] = "adamw",
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=1, help="train: rows an update, pairs in P4; about 1,000 tokens if not given."),
    ] = None,
    longest: Annotated[
        int | None, typer.Option("--longest", min=32, help="train: most tokens a row; 512 on a CPU, 4096 on a GPU.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="train: turns that each arm gets.")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="train: least time of one turn.")] = 8.0,
    apart: Annotated[
        bool, typer.Option("--apart", help="train: one arm after another, where memory does not hold them all.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what each way to tune costs and learns, or how fast training is beside other tools."""
    from luthier.errors import RecipeError

    if what not in WHAT:
        raise RecipeError(f"there is nothing to measure called '{what}'", fix="luthier bench methods, or train")
    if what == "methods":
        _methods(overrides, out or Path("bench-methods"), only, as_json=as_json)
        return
    if overrides:
        raise RecipeError(f"luthier bench train reads no recipe: {overrides[0]}", fix="luthier bench --help")
    from luthier.artifact import make_folder, write_text
    from luthier.pipeline.speed import Asked, measure, table

    given = arms or (USUAL_PAIRS if profile == "P4" else USUAL)
    folder, screen = out or Path("bench-train"), console()
    make_folder(folder)
    found = measure(
        folder / "work",
        [name.strip() for name in given.split(",")],
        Asked(shape, profile, tuning, rows, longest, rounds, seconds, apart=apart, optimizer=optimizer),
        tell=lambda line: screen.print(line, markup=False),
    )
    write_text(folder / "train.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "train.md", table(found))
    if as_json:
        put(document(None, **found))
    else:
        console(out=True).print(table(found), markup=False, soft_wrap=True)
        screen.print(f"written to {folder}: train.md, train.json")


def _methods(overrides: list[str] | None, out: Path, only: str | None, *, as_json: bool) -> None:
    from luthier.artifact import make_folder, write_text
    from luthier.errors import RecipeError
    from luthier.pipeline.methods import METHODS, measure, plot, table, to_json

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
