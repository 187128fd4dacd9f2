"""`luthier review`: rows shown one by one with what is trained of them; accept, edit or reject each."""

import getpass
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work
from luthier.errors import RecipeError

if TYPE_CHECKING:
    from luthier.data.review import Outlook
    from luthier.runs import Run

KEYS = {"a": "accept", "e": "edit", "r": "reject", "s": "skip", "q": "quit"}
ASK = "[a]ccept  [e]dit  [r]eject  [s]kip  [q]uit"


def review(
    recipe: Recipe = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
    sample: Annotated[
        int | None, typer.Option("--sample", help="Rows to look at; the recipe's, or 100.", min=1)
    ] = None,
    export: Annotated[
        tuple[str, Path] | None,
        typer.Option("--export", help="Write the sample for label-studio or argilla.", metavar="TOOL FILE"),
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", help="Take in verdicts from an export of either tool.", metavar="FILE")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say how far the review is.")] = False,
) -> None:
    """Look at a sample of the rows before training, and say of each whether it is good."""
    from luthier.data.verdicts import append_verdicts, read_verdicts
    from luthier.pipeline.review import to_see, verdicts_file

    run, _ = work(recipe, overrides, runs, "dataset", as_json=as_json)
    asked = run.recipe.data.review
    size = sample or (asked.sample if asked else 100)
    path = verdicts_file(run.store.root)
    dataset = run.artifact("dataset").folder
    if export is not None:
        _export(dataset, export, size, path)
        return
    if import_ is not None:
        from luthier.data.exchange import read_reviews

        count = append_verdicts(path, read_reviews(import_))
        console().print(f"{count:,} verdicts taken in from {import_}")
    elif not status and not as_json:
        _look_through(run, dataset, to_see(dataset, read_verdicts(path), size), path)
    _say(run, dataset, path, as_json=as_json)


def _export(dataset: Path, export: tuple[str, Path], size: int, path: Path) -> None:
    from luthier.data.exchange import LABEL_STUDIO, WRITERS, write_rows
    from luthier.data.review import draw_sample, reviewable
    from luthier.data.verdicts import read_verdicts
    from luthier.pipeline.review import with_content

    tool, file = export
    if tool not in WRITERS:
        raise RecipeError(f"there is no format '{tool}'; formats: {', '.join(WRITERS)}", fix="name one of them")
    rows = with_content(dataset, draw_sample(reviewable(dataset), size))
    count = write_rows(file, tool, rows, read_verdicts(path))
    console().print(f"{count:,} rows written to {file}")
    if tool == "label-studio":
        console().print("the labelling config of the project:")
        console(out=True).print(LABEL_STUDIO, markup=False)


def _look_through(run: "Run", dataset: Path, chosen: list[Any], path: Path) -> None:
    from luthier.cli.inspect import heading, parts
    from luthier.data.verdicts import append_verdicts
    from luthier.models.base import find_base
    from luthier.pipeline.view import look_at

    if not chosen:
        console().print("every row of the sample has been seen; --sample asks for more")
        return
    tokenizer = find_base(run.recipe.model, run.home).tokenizer()
    out = console(out=True)
    for number, (entry, drawn) in enumerate(chosen, 1):
        (view,) = look_at([entry], dataset, run.recipe, run.home, tokenizer)
        why = f"risk {entry.risk:.2f}" if drawn == "risk" else "drawn at random"
        out.print(heading(view))
        out.print(f"row {number} of {len(chosen)}, {why}{f'; {entry.note}' if entry.note else ''}", style="dim")
        for part in parts(view, tokenizer, ids=False):
            out.print(part)
        verdict = _ask(dataset, entry, drawn)
        if verdict is None:
            return
        if verdict != "skip":
            append_verdicts(path, [verdict])


def _ask(dataset: Path, entry: Any, drawn: Any) -> Any:
    """A verdict, `skip`, or None to stop."""
    from luthier.data.verdicts import Verdict

    decision = KEYS[_key()]
    if decision in ("skip", "quit"):
        return "skip" if decision == "skip" else None
    edited = _edited(dataset, entry, drawn) if decision == "edit" else None
    if decision == "edit" and edited is None:
        console().print("nothing was changed: the row is skipped")
        return "skip"
    note = _line("note: ") if decision != "accept" else ""
    who = os.environ.get("LUTHIER_REVIEWER") or getpass.getuser()
    return Verdict(entry.content, decision, drawn, note, edited, entry.where, who, round(time.time(), 3))  # type: ignore[arg-type]


def _key() -> str:
    """One of the keys; a letter at once where there is a terminal, a line elsewhere. The end of the input stops."""
    console().print(ASK, markup=False)
    while True:
        given = _press() if sys.stdin.isatty() else sys.stdin.readline()
        if not given:
            return "q"
        if given.strip().lower()[:1] in KEYS and given.strip():
            return given.strip().lower()[0]


def _press() -> str:
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return sys.stdin.readline()
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        return os.read(number, 1).decode("utf-8", "replace")
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _line(prompt: str) -> str:
    console().print(prompt, end="")
    return sys.stdin.readline().strip()


def _edited(dataset: Path, entry: Any, drawn: Any) -> str | None:
    """The answer as the person wants it: in their editor, or in one line where there is no terminal."""
    from luthier.data.apply import answer_of
    from luthier.pipeline.review import with_content
    from luthier.types import Example, Pair

    ((_, _, row),) = with_content(dataset, [(entry, drawn)])
    before = answer_of(Pair.from_json(row) if "chosen" in row else Example.from_json(row))
    if not sys.stdin.isatty():
        after = _line("the answer as it should be: ")
    else:
        editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answer.txt"
            file.write_text(before, encoding="utf-8")
            subprocess.run([*editor, str(file)], check=False)  # noqa: S603 - the person's own editor
            after = file.read_text(encoding="utf-8")
        after = after if before.endswith("\n") else after.removesuffix("\n")  # editors end files with one
    return after if after.strip() and after != before else None


def _say(run: "Run", dataset: Path, path: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from luthier.data.review import outlook, reviewable
    from luthier.data.verdicts import read_verdicts

    asked = run.recipe.data.review
    found = outlook(reviewable(dataset), read_verdicts(path), asked.limit if asked else 0.05)
    if as_json:
        put(document(run, review=asdict(found) | {"passed": found.passed}))
        return
    _show(found, required=asked is not None)


def _show(found: "Outlook", *, required: bool) -> None:
    out = console(out=True)
    out.print(f"drawn at random: {found.seen:,} seen, {found.defects:,} with a defect")
    if found.seen:
        out.print(f"share of defects: {found.rate:.1%}, between {found.low:.1%} and {found.high:.1%} at 95 %")
    if found.risky_seen:
        out.print(f"looked at besides: {found.risky_seen:,} seen, {found.risky_defects:,} with a defect")
    if found.passed:
        out.print(f"[green]below the limit of {found.limit:.1%}[/]")
    elif found.more is None:
        out.print(f"not below the limit of {found.limit:.1%}: mend the data, further rows will not do")
    else:
        out.print(f"{found.more:,} more good rows would bring it below the limit of {found.limit:.1%}")
    if not required:
        out.print("training does not wait for it: the recipe has no data.review", style="dim")
