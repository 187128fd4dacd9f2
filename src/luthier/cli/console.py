"""What the verbs show: progress on standard error, one JSON document on standard output when asked."""

import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.errors import LuthierError

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.runs import Run

Recipe = Annotated[
    str | None,
    typer.Argument(
        help="A recipe, a run, or nothing: ./recipe.yaml if there, else the embedded default.", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings such as training.epochs=5.", show_default=False, metavar="KEY=VALUE"),
]
Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.", metavar="FOLDER")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
RunName = Annotated[str, typer.Argument(help="A run: its folder, its name or the beginning of it, or 'last'.")]
RUNS = Path("runs")
WIDE = 200


def console(*, out: bool = False) -> "Console":
    """The terminal: standard error for what happens, standard output for results.

    Text is shown as it is: what looks like Rich's markup in a path or a row is none. Colour comes from `style`.
    """
    from rich.console import Console

    stream = sys.stdout if out else sys.stderr
    # A file or a pipe has no width: nothing is cut or wrapped there.
    width = None if stream.isatty() else WIDE
    return Console(stderr=not out, highlight=False, markup=False, soft_wrap=width is not None, width=width)


def say_error(error: LuthierError, *, json_wanted: bool) -> None:
    """The error as a sentence on standard error, and as a document where scripts listen."""
    from rich.text import Text

    screen = console()
    screen.print(
        Text("error: ", style="bold red") + Text(f"{error.where}: {error.what}" if error.where else error.what)
    )
    if error.fix:
        screen.print(Text("  next: ", style="bold") + Text(error.fix))
    if json_wanted:
        body = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        known = document(error.run) | judged(error.run) if error.run else document(None)
        put(known | {"status": "interrupted" if error.exit_code == 130 else "failed", "error": body})


def judged(run: "Run") -> dict[str, Any]:
    """The gate's verdict and rules, where the run has come to them."""
    try:
        found = run.artifact("verdict").json("verdict.json")
    except LuthierError:
        return {}
    return {"verdict": found["verdict"], "rules": found["rules"]}


def put(body: dict[str, Any]) -> None:
    """One JSON document on standard output; in ASCII, which every encoding of it can hold."""
    print(json.dumps(body, indent=1, default=str))


def document(run: "Run | None", **more: Any) -> dict[str, Any]:
    """What every verb says about a run, or about none; scripts rely on these names."""
    if run is None:
        return {"status": "done", "run": None, "artifacts": {}, "metrics": {}, **more}
    return {
        "status": run.status,
        "run": str(run.folder),
        "artifacts": {name: str(folder) for name, folder in run.artifacts.items()},
        "metrics": {
            name: {"value": m.value, "low": m.low, "high": m.high, "n": m.n} for name, m in run.metrics.items()
        },
        **more,
    }


def recipe_and_overrides(recipe: str | None, overrides: list[str] | None, runs: Path) -> tuple[Path, list[str]]:
    """The recipe file or run folder that is meant, and the overrides.

    An argument with `=` in it is an override even where a recipe could stand.
    """
    from luthier.pipeline import default_recipe
    from luthier.runs import find_run

    settings = list(overrides or ())
    if recipe is not None and "=" in recipe and not _there(Path(recipe)):
        settings.insert(0, recipe)
        recipe = None
    if recipe is None:
        here = Path("recipe.yaml")
        return (here if here.exists() else default_recipe()), settings
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml") or (_there(path) and path.is_file()):
        return path, settings
    if _there(path / "recipe.yaml"):
        return (path if (path / "run.json").exists() else path / "recipe.yaml"), settings
    return find_run(recipe, runs).folder, settings


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than any name can be
        return False


class Screen:
    """Shows stages as lines and long work as a bar with rate and remaining time; plain lines off a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = console()
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._title = ""
        self.reused = 0
        self.made = 0

    def stage(self, name: str, title: str) -> None:
        """A stage begins."""
        self._close()
        self._title = f"{name:<10} {title}"
        if self._console.is_terminal and not self._quiet:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._title, total=None, note="")
            self._bar.start()

    def progress(self, done: int, total: int, note: str) -> None:
        """How far it is."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=f"{done:,}/{total:,}  {note}")

    def done(self, name: str, seconds: float, *, reused: bool) -> None:
        """A stage ended."""
        self._close()
        self.reused += reused
        self.made += not reused
        if not self._quiet:
            if reused:
                self._console.print(f"ok {name:<10} up to date", style="dim")
            else:
                self._marked("ok", "green", f"{name:<10} done in {seconds:.1f} s")

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self._marked("warning", "yellow", message)

    def _marked(self, mark: str, style: str, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(mark, style) + Text(f" {text}"))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def work(
    recipe: str | None, overrides: list[str] | None, runs: Path, until: str, *, as_json: bool
) -> tuple["Run", Screen]:
    """Bring a run up to a stage, showing how it goes on; an error carries the run for the JSON document."""
    from luthier.pipeline import run_recipe

    path, settings = recipe_and_overrides(recipe, overrides, runs)
    screen = Screen(quiet=as_json)
    started = time.monotonic()
    try:
        with redirect_stdout(sys.stderr):  # what a user's reward prints would get into the document
            run = run_recipe(path, settings, root=runs, until=until, watch=screen)
    finally:
        screen._close()
    if not screen.made and not as_json:
        seconds = time.monotonic() - started
        console().print(f"nothing to do: all {screen.reused} stages are up to date ({seconds:.1f} s)")
    return run, screen
