"""`luthier review`: rows shown one by one with what is trained of them; accept, edit or reject each."""

import getpass
import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work
from luthier.errors import Interrupted, RecipeError

if TYPE_CHECKING:
    from luthier.data.review import Outlook
    from luthier.pipeline.review import Left
    from luthier.pipeline.view import RowView
    from luthier.runs import Run

KEYS = {"a": "accept", "e": "edit", "r": "reject", "s": "skip", "b": "back", "q": "quit"}
ASK = "[a]ccept  [e]dit  [r]eject  [s]kip  [b]ack  [q]uit"
ESCAPE, END = "\x1b", "\x04"
ESCAPE_SECONDS = 0.05
"""So long after an escape its other signs come, if there are any."""
AT_ONCE = 20
"""Rows that are looked up together: their files are read once for all of them."""
SAMPLE, LIMIT = 100, 0.05
"""The rows to look at, and the limit on the share of defects, where the recipe names none."""


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
    from luthier.data.verdicts import read_verdicts
    from luthier.pipeline.review import to_see, verdicts_file

    run, _ = work(recipe, overrides, runs, "dataset", as_json=as_json)
    asked = run.recipe.data.review
    size = sample or (asked.sample if asked else SAMPLE)
    path = verdicts_file(run.store.root)
    dataset = run.artifact("dataset").folder
    if export is not None:
        _export(dataset, export, size, path)
        return
    if import_ is not None:
        _import(dataset, import_, path)
    elif not status and not as_json:
        left = to_see(dataset, read_verdicts(path), size)
        try:
            _look_through(run, dataset, left, path)
        except KeyboardInterrupt as stop:
            console().print()
            _say(run, dataset, path, as_json=as_json)
            raise Interrupted("stopped; every verdict so far is kept", fix="luthier review goes on from here") from stop
    _say(run, dataset, path, as_json=as_json)


def _export(dataset: Path, export: tuple[str, Path], size: int, path: Path) -> None:
    from luthier.data.exchange import SETTINGS, WRITERS, write_rows
    from luthier.data.review import draw_sample, frame_of, reviewable
    from luthier.data.verdicts import read_verdicts
    from luthier.pipeline.review import with_content

    tool, file = export
    if tool not in WRITERS:
        raise RecipeError(f"there is no format '{tool}'; formats: {', '.join(WRITERS)}", fix="name one of them")
    entries, verdicts = reviewable(dataset), read_verdicts(path)
    rows = with_content(dataset, draw_sample(entries, size, verdicts))
    count = write_rows(file, tool, rows, verdicts, frame_of(entries))
    console().print(f"{count:,} rows written to {file}")
    made = "the labelling config of the project:" if tool == "label-studio" else "what takes them in there:"
    console().print(made)
    console(out=True).print(SETTINGS[tool].replace("FILE", repr(str(file))))


def _import(dataset: Path, file: Path, path: Path) -> None:
    """Take in the verdicts of another tool, and say what of the file is none."""
    from luthier.data.exchange import SHOWN, read_reviews
    from luthier.data.review import reviewable
    from luthier.data.verdicts import append_verdicts, read_verdicts

    taken, known = read_reviews(file), read_verdicts(path)
    rows = {entry.content for entry in reviewable(dataset)}
    new = [v for v in taken.verdicts if v.content not in known or v.said != known[v.content].said]
    count = append_verdicts(path, new)
    strange = [v.where or v.content for v in new if v.content not in rows]
    screen = console()
    screen.print(f"{count:,} verdicts taken in from {file}")
    if again := len(taken.verdicts) - count:
        screen.print(f"{again:,} say what was known already")
    if taken.open:
        screen.print(f"{taken.open:,} rows have no answer yet")
    for what, places in (
        ("are on rows that this dataset does not have, or that have changed since", strange),
        ("rows were judged otherwise by several people: the strictest verdict counts", taken.disputed),
        ("answers are no verdict, and were left out", taken.problems),
    ):
        if places:
            more = f"; and {len(places) - SHOWN:,} more" if len(places) > SHOWN else ""
            screen.print(f"{len(places):,} {what}: {'; '.join(places[:SHOWN])}{more}")


def _look_through(run: "Run", dataset: Path, left: "Left", path: Path) -> None:
    from luthier.data.verdicts import append_verdicts
    from luthier.models.base import find_base
    from luthier.pipeline.view import look_at

    if not left.rows:
        console().print(f"every row of the sample of {left.of:,} has been seen; --sample asks for more")
        return
    tokenizer = find_base(run.recipe.model, run.home).tokenizer()
    views: dict[int, Any] = {}
    at = 0
    while at < len(left.rows):
        if at not in views:
            some = [entry for entry, _ in left.rows[at : at + AT_ONCE]]
            views = dict(enumerate(look_at(some, dataset, run.recipe, run.home, tokenizer), at))
        _show_row(views[at], left, at, tokenizer)
        said = _ask(dataset, *left.rows[at], left.frame)
        if said == "quit":
            return
        if said == "back":
            at = max(0, at - 1)
            continue
        if said != "skip":
            append_verdicts(path, [said])
        at += 1


def _show_row(view: "RowView", left: "Left", at: int, tokenizer: Any) -> None:
    from luthier.cli.inspect import heading, parts

    entry, drawn = left.rows[at]
    out = console(out=True)
    why = f"risk {entry.risk:.2f}" if drawn == "risk" else "drawn at random"
    out.print(heading(view))
    out.print(f"row {at + 1} of {len(left.rows)} left, {why}{f'; {entry.note}' if entry.note else ''}", style="dim")
    for part in parts(view, tokenizer, ids=False):
        out.print(part)


def _ask(dataset: Path, entry: Any, drawn: Any, frame: str) -> Any:
    """A verdict, or `skip`, `back` or `quit`."""
    from luthier.data.verdicts import Verdict

    decision = KEYS[_key()]
    if decision in ("skip", "back", "quit"):
        return decision
    edited = _edited(dataset, entry, drawn) if decision == "edit" else None
    if decision == "edit" and edited is None:
        console().print("nothing was changed: the row is skipped")
        return "skip"
    note = _line("note: ") if decision != "accept" else ""
    who = os.environ.get("LUTHIER_REVIEWER") or getpass.getuser()
    told = {"note": note, "edited": edited, "where": entry.where, "who": who, "time": round(time.time(), 3)}
    return Verdict(entry.content, decision, drawn, frame=frame, **told)  # type: ignore[arg-type]


def _key() -> str:
    """One of the keys; a letter at once where there is a terminal, a line elsewhere. The end of the input stops."""
    console().print(ASK)
    while True:
        given = _press() if sys.stdin.isatty() else sys.stdin.readline()
        if not given or given == END:
            return "q"
        if given.strip().lower()[:1] in KEYS and given.strip():
            return given.strip().lower()[0]


def _press() -> str:
    """The key that is pressed; nothing for one that sends several signs, as the arrows do: their last is a letter."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return sys.stdin.readline()
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        while (given := os.read(number, 1).decode("utf-8", "replace")) == ESCAPE:
            while select.select([number], [], [], ESCAPE_SECONDS)[0]:
                os.read(number, 1)
        return given
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
    found = outlook(reviewable(dataset), read_verdicts(path), asked.limit if asked else LIMIT)
    if as_json:
        put(document(run, review=asdict(found) | {"passed": found.passed}))
        return
    _show(found, asked.sample if asked else SAMPLE, required=asked is not None)


def _show(found: "Outlook", usual: int, *, required: bool) -> None:
    from luthier.pipeline.review import mending

    out = console(out=True)
    earlier = f", {found.earlier:,} of them before the rows changed" if found.earlier else ""
    out.print(f"drawn at random: {found.seen:,} seen, {found.defects:,} with a defect{earlier}")
    if found.seen:
        out.print(f"share of defects: {found.rate:.1%}, between {found.low:.1%} and {found.high:.1%} at 95 %")
    if found.risky_seen:
        out.print(f"looked at besides: {found.risky_seen:,} seen, {found.risky_defects:,} with a defect")
    if found.waiting:
        out.print(f"{found.waiting:,} verdicts count once the rows before them, that were passed over, are seen")
    if found.seen:
        mended = " once these are mended" if found.defects + found.risky_defects else ""
        out.print(f"left in {found.rows:,} rows{mended}: at most {found.left:.1%} with a defect")
    if found.passed:
        out.print(f"below the limit of {found.limit:.1%}", style="green")
    else:
        more = f" --sample {found.sample}" if found.sample > usual else ""
        out.print(f"{found.more:,} more good rows would bring it below the limit of {found.limit:.1%}")
        out.print(f"next: luthier review{more}{mending(found)}")
    if not required:
        out.print("training does not wait for it: the recipe has no data.review", style="dim")
