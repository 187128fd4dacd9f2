"""The run folder: what was wanted, what was used, what happened, what came out.

runs/
  artifacts/<kind>-<key>/     shared by all runs beside it
  <name>-<hash>/              one run; the hash is that of the resolved recipe
    recipe.given.yaml         the recipe as it was written, with the overrides as a comment
    recipe.yaml               resolved: every default written out
    lock.json                 versions, hashes of every input, seed, hardware
    events.jsonl              what happened
    run.json                  status, artifacts and metrics, for scripts
    report.html
    ledger.jsonl              where curation was refused: what became of each row, and why
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luthier.artifact import Artifact, Store, damaged, digest, make_folder, open_artifact, write_text
from luthier.errors import DataError, RecipeError
from luthier.events import Event, Log
from luthier.recipe import Recipe, dump_recipe, load_recipe
from luthier.types import Metric

VERSION = 1
STORE = "artifacts"
HASH = r"-[0-9a-f]{8}"
"""What the name of a run's folder ends with."""
LONGEST_NAME = 250
"""No file system has longer ones; asking for one is an error there and not just a no."""


@dataclass(slots=True)
class Run:
    """One run on disk. `artifacts`: a stage's name -> its artifact folder; `metrics`: a name -> its value."""

    folder: Path
    recipe: Recipe
    home: Path = Path()
    """The folder of the recipe as it was given: relative paths in it are looked for here first."""
    status: str = "new"
    artifacts: dict[str, Path] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name, by which the command line finds the run."""
        return self.folder.name

    @property
    def store(self) -> Store:
        """Where this run's artifacts lie."""
        return Store(self.folder.parent / STORE)

    @property
    def events(self) -> Path:
        """The log's file."""
        return self.folder / "events.jsonl"

    def log(self, listen: Callable[[Event], None] = lambda _: None) -> Log:
        """A writer for the log, and who is to hear what is written."""
        return Log(self.events, listen)

    def artifact(self, stage: str) -> Artifact:
        """The artifact of a stage.

        Raises:
            DataError: the stage has not been run, or its artifact is gone.
        """
        if stage not in self.artifacts:
            raise DataError(f"the run has no '{stage}' yet", where=self.name, fix=f"luthier run {self.folder}")
        return open_artifact(self.artifacts[stage])

    def save(self) -> None:
        """Write `run.json`."""
        body = {
            "version": VERSION,
            "status": self.status,
            "home": os.path.relpath(self.home, self.folder),
            "artifacts": {k: os.path.relpath(v, self.folder) for k, v in self.artifacts.items()},
            "metrics": {k: asdict(v) for k, v in self.metrics.items()},
        }
        write_text(self.folder / "run.json", json.dumps(body, indent=1) + "\n")

    def write_lock(self, facts: Mapping[str, Any]) -> None:
        """Write `lock.json`: what the results depend on, as it was found."""
        write_text(self.folder / "lock.json", json.dumps({"version": VERSION, **facts}, indent=1, default=str) + "\n")

    @contextmanager
    def only_here(self) -> Iterator[None]:
        """Keep a second process from working on the same run."""
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RecipeError(
                "another process is working on this run", where=str(self.folder), fix="wait for it"
            ) from error
        try:
            yield
        finally:
            lock.release()


def create_run(
    recipe: Recipe, root: Path, *, home: Path = Path(), given: str = "", overrides: Sequence[str] = ()
) -> Run:
    """The run of this recipe under `root`: made new, or opened when it is there.

    Args:
        recipe: what is wanted.
        root: the folder of all runs.
        home: the folder of the recipe file.
        given: the recipe file's text.
        overrides: as they were given.
    """
    folder = root / f"{recipe.name}-{digest(recipe.model_dump(mode='json'))[:8]}"
    if (folder / "run.json").exists():
        found = open_run(folder)
        found.home = home  # the recipe may have been moved since
        return found
    make_folder(folder)
    comment = "".join(f"# {override}\n" for override in overrides)
    write_text(folder / "recipe.given.yaml", (f"# overrides:\n{comment}" if comment else "") + given)
    write_text(folder / "recipe.yaml", dump_recipe(recipe))
    run = Run(folder, recipe, home)
    run.save()
    return run


def open_run(folder: Path) -> Run:
    """Open a run folder.

    Raises:
        DataError: it is not one, it is damaged, or a newer Luthier wrote it.
    """
    path = folder / "run.json"
    if not path.exists():
        raise DataError("not a run folder", where=str(folder), fix="luthier runs lists them")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["version"] > VERSION:
            raise DataError("written by a newer Luthier", where=str(path), fix="pip install -U luthier")
        artifacts = {k: Path(os.path.normpath(folder / v)) for k, v in body["artifacts"].items()}
        metrics = {k: Metric(**v) for k, v in body["metrics"].items()}
        home = Path(os.path.normpath(folder / body["home"]))
        return Run(folder, load_recipe(folder / "recipe.yaml"), home, body["status"], artifacts, metrics)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def list_runs(root: Path) -> list[Run]:
    """All runs under `root`, the one touched last first."""
    return [open_run(folder) for folder in _folders(root)]


def _folders(root: Path) -> list[Path]:
    found = sorted(root.glob("*/run.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    return [path.parent for path in found]


def run_folder(path: Path) -> Path | None:
    """The folder of a run given by its folder, or by the folder's name without the hash: of several the newest."""
    if (path / "run.json").exists():
        return path
    found = [p for p in path.parent.glob(f"{path.name}-*/run.json") if re.fullmatch(HASH, p.parent.name[-9:])]
    return max(found, key=lambda p: p.stat().st_mtime).parent if found else None


def find_run(name: str, root: Path) -> Run:
    """The run a person means: a folder, a name under `root`, the beginning of one, or `last`.

    Raises:
        RecipeError: there is none, or the beginning fits several.
    """
    for folder in (Path(name), root / name) if len(name) < LONGEST_NAME else ():
        if (folder / "run.json").exists():
            return open_run(folder)
    folders = _folders(root)  # by name, so that a damaged neighbour is in nobody's way
    if name == "last" and folders:
        return open_run(folders[0])
    matching = [folder for folder in folders if folder.name.startswith(name)]
    if len(matching) == 1:
        return open_run(matching[0])
    if matching:
        fitting = ", ".join(folder.name for folder in matching[:5])
        raise RecipeError(
            f"'{name}' fits {len(matching)} runs: {fitting}", where=str(root), fix="give more of the name"
        )
    if not folders:
        raise RecipeError("there are no runs here yet", where=str(root), fix="luthier run, or name the folder of a run")
    known = ", ".join(folder.name for folder in folders[:5])
    raise RecipeError(f"there is no run '{name}'; runs here: {known}", where=str(root), fix="luthier runs lists them")
