"""What the stages of one run share: the recipe, the base model, the tokenizer, the log."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from luthier.artifact import Artifact, Store, digest, file_digest
from luthier.data.curate import replay_files
from luthier.data.read import Files, find_files
from luthier.data.step import EvaluationItem
from luthier.data.verdicts import Verdict, read_verdicts
from luthier.errors import DataError
from luthier.evaluate.items import Role, Task
from luthier.evaluate.safety.guards import Guard, guard_of
from luthier.evaluate.safety.red_team import Tool, red_team_task
from luthier.evaluate.scorers import SCORERS
from luthier.evaluate.tasks import find_tasks, suite_file
from luthier.events import Log
from luthier.models.base import UKULELE, Base, find_base
from luthier.pipeline.review import verdicts_file
from luthier.plan import Hardware, find_hardware
from luthier.recipe import Recipe
from luthier.runs import Run
from luthier.text import stop_ids


class Watcher(Protocol):
    """Whoever shows a person how the work goes on."""

    def stage(self, name: str, title: str) -> None:
        """A stage begins."""

    def done(self, name: str, seconds: float, *, reused: bool) -> None:
        """A stage ended well, or was up to date."""

    def progress(self, done: int, total: int, note: str) -> None:
        """How far the stage is; `note` holds the numbers of the moment."""

    def warn(self, message: str) -> None:
        """Something the user should know."""


class Silent:
    """Shows nothing."""

    def stage(self, name: str, title: str) -> None:
        """Show nothing."""

    def done(self, name: str, seconds: float, *, reused: bool) -> None:
        """Show nothing."""

    def progress(self, done: int, total: int, note: str) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Show nothing."""


@dataclass
class Work:
    """One run in progress; `artifacts` fills up as stages finish."""

    run: Run
    log: Log
    watch: Watcher
    artifacts: dict[str, Artifact]

    @property
    def recipe(self) -> Recipe:
        """What is wanted."""
        return self.run.recipe

    @cached_property
    def store(self) -> Store:
        """Where artifacts are found and made."""
        return self.run.store

    @cached_property
    def base(self) -> Base:
        """The base model, on disk."""
        return find_base(self.recipe.model, self.run.home)

    @cached_property
    def base_identity(self) -> str:
        """Its hash."""
        return self.base.identity()

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.base.tokenizer()

    @cached_property
    def hardware(self) -> Hardware:
        """This machine."""
        return find_hardware()

    @cached_property
    def stop(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        return stop_ids(self.tokenizer, self.base.stop_ids)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """The sha256 of every input file, by the path in the recipe."""
        found = {s.path: _source(find_files(s.path, self.run.home)) for s in self.recipe.data.sources}
        if replay := self.recipe.data.replay:
            found[f"replay: {replay.path}"] = _source(replay_files(replay.path, self.run.home))
        for role, names in self.suites.items():
            for suite in names:
                if place := suite_file(suite, self.run.home):
                    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
                    found[f"{role}: {suite}"] = digest([_digest(path, suite) for path in files])
        return found

    @cached_property
    def evaluation_items(self) -> list[EvaluationItem]:
        """What the model will be judged by, for the check that none of it is learned; validation rows are held out."""
        named = [name for name in self.recipe.evaluate.tasks or () if name not in SCORERS]
        tasks = find_tasks(named, self.run.home, "task")
        for role, names in self.suites.items():
            tasks += find_tasks(names, self.run.home, role)
        tasks += self.attacks
        return [
            EvaluationItem(task.name, item.id, "\n\n".join(turn.content for turn in item.asked), item.expected)
            for task in tasks
            for item in task.items
        ]

    @cached_property
    def guard(self) -> Guard | None:
        """The guard model that judges answers, if the recipe names one; loaded when it is first asked."""
        asked = self.recipe.evaluate.guard
        return guard_of(asked.model, asked.label, self.run.home) if asked else None

    @cached_property
    def attacks(self) -> list[Task]:
        """What the red-team tool makes of the unsafe prompts; the same ones for every model."""
        asked = self.recipe.evaluate.red_team
        if asked is None:
            return []
        tool = Tool(asked.name, asked.command, asked.install, asked.timeout, self.run.home.resolve(), asked.judges)
        suites = find_tasks(self.recipe.evaluate.safety or ["luthier-safety"], self.run.home, "safety")
        return [red_team_task(tool, suites, self.store.root / "attacks")]

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """What people said of rows, by the hash of their content."""
        return read_verdicts(verdicts_file(self.store.root))

    @property
    def suites(self) -> dict[Role, Sequence[str]]:
        """The suites by what they are for."""
        asked = self.recipe.evaluate
        return {
            "retention": self.retention,
            "safety": asked.safety,
            "instructions": asked.instructions,
            "regression": asked.regressions,
        }

    @property
    def retention(self) -> Sequence[str]:
        """The retention suites: the recipe's, or the bundled base's own."""
        asked = self.recipe.evaluate.retention
        if asked is not None:
            return asked
        return ["ukulele-skills"] if self.recipe.model.base == UKULELE and not self.scores else []

    @property
    def pairs(self) -> bool:
        """Whether the rows are pairs."""
        return self.recipe.objective.rows == "pairs"

    @property
    def scores(self) -> bool:
        """Whether the model will give scores instead of answers."""
        return self.recipe.objective.kind == "reward"

    def tasks(self, conversations: bool) -> Sequence[str]:
        """The tasks: the recipe's, or the exact match where there are conversations."""
        asked = self.recipe.evaluate.tasks
        return asked if asked is not None else ["exact_match"] if conversations and not self.pairs else []

    @cached_property
    def conversations(self) -> bool:
        """True when the dataset has conversations with an answer, and not only plain text or prompts."""
        dataset = self.artifacts["dataset"]
        if self.recipe.objective.rows == "prompts":
            with dataset.path("validation.jsonl").open(encoding="utf-8") as file:
                return any(row["messages"][-1]["content"] for row in map(json.loads, file) if row.get("messages"))
        return any(shape != "text" for shape in dataset.json("facts.json")["shapes"])


def _source(files: Files) -> str:
    try:
        return files.digest()
    except OSError as error:
        fix = "check the file and its permissions"
        raise DataError(f"cannot be read: {error.strerror}", where=files.source, fix=fix) from error


def _digest(path: Path, given: str) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        reason = "is a folder, not a file of rows" if path.is_dir() else f"cannot be read: {error.strerror}"
        raise DataError(reason, where=given, fix="name one .jsonl or .json file") from error
