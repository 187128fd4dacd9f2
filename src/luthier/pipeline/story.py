"""What happened in a run, read from its folder: the one account that the report and the terminal summary tell.

A run may be read at any point, so everything here may be missing. A file that is there but cannot be read becomes a
sentence in `problems`: a report is most needed when something went wrong.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.events import (
    Event,
    Resumed,
    RunFinished,
    RunStarted,
    StageFailed,
    StageFinished,
    StageStarted,
    Step,
    Stopped,
    Validated,
    Warned,
    read,
    training_curve,
)
from luthier.pipeline.words import as_number
from luthier.runs import Run
from luthier.types import Json, Metric

STAGES = ("dataset", "plan", "baseline", "model", "evaluation", "verdict", "release")

DONE, FAILED, RUNNING, INTERRUPTED, NOT_RUN = "done", "failed", "under way", "interrupted", "not run yet"


@dataclass(slots=True)
class StageState:
    """How far a stage got; `error` is the sentence it failed with."""

    name: str
    state: str = NOT_RUN
    error: str = ""
    seconds: float | None = None
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What one model answered, and the score it got."""

    text: str
    score: float
    stopped: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One item that was asked of the base and of the tuned model."""

    task: str
    item: str
    group: str
    prompt: tuple[tuple[str, str], ...]
    expected: str
    before: Reply
    after: Reply

    @property
    def change(self) -> str:
        """`mended`, `broken`, `wrong both times` or `right both times`, by score, so it holds for partial credit."""
        if self.after.score != self.before.score:
            return "mended" if self.after.score > self.before.score else "broken"
        return "right both times" if self.after.score >= 1 else "wrong both times"


CHANGES = ("mended", "broken", "wrong both times", "right both times")


@dataclass(slots=True)
class Story:
    """The facts of a run. A stage's facts are None (or empty) until it has been run."""

    run: Run
    stages: dict[str, StageState]
    facts: Json | None = None
    samples: list[Json] = field(default_factory=list)
    plan: Json | None = None
    training: Json | None = None
    rollouts: Json | None = None
    verdict: Json | None = None
    parity: Json | None = None
    lock: Json | None = None
    before: dict[str, Metric] = field(default_factory=dict)
    after: dict[str, Metric] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    validations: list[Validated] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    stopped: str = ""
    started: float | None = None

    @property
    def suites(self) -> set[str]:
        """Names of the retention suites: those the recipe names, and every task whose items have groups."""
        recipe = self.run.recipe
        named = recipe.evaluate.retention
        if named is None:
            named = ["ukulele-skills"] if recipe.model.base == "ukulele" else []
        return {*named, *(Path(name).stem for name in named), *(asked.task for asked in self.asked if asked.group)}

    @property
    def tasks(self) -> list[str]:
        """The tasks; conversations have one when the recipe names none."""
        asked = self.run.recipe.evaluate.tasks
        return ["exact_match"] if asked is None else asked

    @property
    def metric_names(self) -> list[str]:
        """Every metric measured: tasks, then retention suites, then the others in the order of the files."""
        names = list(dict.fromkeys([*self.before, *self.after]))
        tasks, suites = self.tasks, self.suites
        return sorted(names, key=lambda name: 0 if name in tasks else 1 if name in suites else 2)

    @property
    def headline(self) -> list[str]:
        """The metrics that matter most: the first task and the first retention suite."""
        names = self.metric_names
        task = [name for name in names if name in self.tasks][:1]
        suite = [name for name in names if name in self.suites and name not in task][:1]
        return [*(task or names[:1]), *suite]

    @property
    def failure(self) -> StageState | None:
        """The stage that ended the run, if one did."""
        return next((stage for stage in self.stages.values() if stage.state == FAILED), None)

    @property
    def best(self) -> Validated | None:
        """The validation with the lowest loss; one that is not a number is no best."""
        return min((v for v in self.validations if v.loss == v.loss), key=lambda v: v.loss, default=None)

    @property
    def fates(self) -> list[tuple[str, int]]:
        """What became of the rows: the kept first, then the most frequent."""
        counts = as_mapping((self.facts or {}).get("fates"))
        rows = [(str(name), int(as_number(n) or 0)) for name, n in counts.items()]
        return sorted(rows, key=lambda row: (row[0] != "kept", -row[1], row[0]))

    @property
    def released(self) -> Path | None:
        """The folder of the released model, if there is one."""
        folder = self.run.artifacts.get("release")
        return folder / "model" if folder and (folder / "model").is_dir() else None


def tell(run: Run) -> Story:
    """Read everything a run has on disk so far."""
    story = Story(run, {name: StageState(name, DONE if name in run.artifacts else NOT_RUN) for name in STAGES})
    story.facts = _stage_json(story, "dataset", "facts.json")
    if "dataset" in run.artifacts and (run.artifacts["dataset"] / "samples.json").exists():
        story.samples = (_stage_json(story, "dataset", "samples.json") or {}).get("rows", [])
    story.plan = _stage_json(story, "plan", "plan.json")
    story.training = _stage_json(story, "model", "training.json")
    if "model" in run.artifacts and (run.artifacts["model"] / "rollouts.json").exists():
        story.rollouts = _stage_json(story, "model", "rollouts.json")
    story.verdict = _stage_json(story, "verdict", "verdict.json")
    story.parity = _stage_json(story, "release", "parity.json")
    story.before = _metrics(_stage_json(story, "baseline", "metrics.json"))
    story.after = _metrics(_stage_json(story, "evaluation", "metrics.json"))
    lock = run.folder / "lock.json"
    story.lock = _json(story, lock) if lock.exists() else None
    story.asked = _pairs(_answers(story, "baseline"), _answers(story, "evaluation"))
    story.steps, story.validations = training_curve(run.events)
    for time, event in read(run.events):
        if story.started is None:
            story.started = time
        _hear(story, event)
    return story


def _hear(story: Story, event: Event) -> None:
    """Take one event of the log into account; later ones replace earlier ones."""
    match event:
        case StageStarted(stage):
            _state(story, stage).state = RUNNING
            _state(story, stage).error = ""
        case StageFinished(stage, _, seconds, reused):
            known = _state(story, stage)
            known.state, known.error, known.reused = DONE, "", reused
            known.seconds = known.seconds if reused and known.seconds is not None else seconds
        case StageFailed(stage, error):
            _state(story, stage).state = FAILED
            _state(story, stage).error = error
        case RunStarted() | RunFinished():  # a killed run writes no end: the next start tells
            for known in story.stages.values():
                known.state = INTERRUPTED if known.state == RUNNING else known.state
        case Warned(message) if message not in story.warnings:
            story.warnings.append(message)
        case Resumed(step):
            story.resumed += [step] if step else []  # a start from nothing is logged as 0
            story.stopped = ""
        case Stopped(_, reason):
            story.stopped = reason


def _state(story: Story, stage: str) -> StageState:
    return story.stages.setdefault(stage, StageState(stage))


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _stage_json(story: Story, stage: str, name: str) -> Json | None:
    folder = story.run.artifacts.get(stage)
    return _json(story, folder / name) if folder else None


def _json(story: Story, path: Path) -> Json | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        story.problems.append(_unreadable(path, error))
        return None
    if not isinstance(value, dict):
        story.problems.append(f"{path.parent.name}/{path.name} is not a JSON object")
        return None
    return value


def _unreadable(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"{path.parent.name}/{path.name} cannot be read: {reason}"


def _metrics(body: Json | None) -> dict[str, Metric]:
    rows = {name: row for name, row in (body or {}).items() if isinstance(row, dict)}
    return {name: _metric(name, row) for name, row in rows.items()}


def _metric(name: str, row: Json) -> Metric:
    """A metric as it was written; what could not be measured is not a number."""
    value, low, high = (math.nan if (x := as_number(row.get(key))) is None else x for key in ("value", "low", "high"))
    return Metric(name, value, low, high, int(as_number(row.get("n")) or 0))


def _answers(story: Story, stage: str) -> list[Json]:
    folder = story.run.artifacts.get(stage)
    if not folder:
        return []
    rows: list[Json] = []
    try:
        with (folder / "answers.jsonl").open(encoding="utf-8", errors="replace") as file:
            rows.extend(json.loads(line) for line in file if line.strip())
    except (OSError, ValueError) as error:
        story.problems.append(_unreadable(folder / "answers.jsonl", error))
    return rows


def _pairs(before: Iterable[Json], after: Iterable[Json]) -> list[Asked]:
    """The items that both models answered, in the order they were asked."""
    earlier = {(row.get("task"), row.get("item")): row for row in before}
    return [_asked(earlier[key], row) for row in after if (key := (row.get("task"), row.get("item"))) in earlier]


def _asked(before: Json, after: Json) -> Asked:
    prompt = tuple((str(turn.get("role", "")), str(turn.get("content", ""))) for turn in after.get("prompt", ()))
    task, item, group = str(after.get("task", "")), str(after.get("item", "")), str(after.get("group") or "")
    return Asked(task, item, group, prompt, str(after.get("expected", "")), _reply(before), _reply(after))


def _reply(row: Json) -> Reply:
    return Reply(str(row.get("answer", "")), as_number(row.get("score")) or 0.0, bool(row.get("stopped", True)))
