"""The log of a run: append-only, one JSON object a line, versioned. The terminal, the report and resume read it.

Each event is a frozen dataclass below; its class name in snake case is the `event` field. Fields are only ever added,
with a default; a change of meaning raises `VERSION`. A line torn by a crash is skipped by the reader and never glued to
the next one by the writer.
"""

import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from luthier.errors import Missing

VERSION = 1


@dataclass(frozen=True, slots=True)
class Event:
    """What all events share: the time it was written, in seconds since 1970 (0 until it is written)."""


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A command began to work on the run."""

    command: str
    stages: list[str]


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage began; what it is about to do, in a sentence."""

    stage: str


@dataclass(frozen=True, slots=True)
class StageFinished(Event):
    """A stage ended well. `reused` is true when its inputs had not changed and nothing was run."""

    stage: str
    artifact: str
    seconds: float
    reused: bool


@dataclass(frozen=True, slots=True)
class StageFailed(Event):
    """A stage ended with an error, given as a sentence."""

    stage: str
    error: str


@dataclass(frozen=True, slots=True)
class Step(Event):
    """One optimizer update.

    `loss` is the objective's mean (nats per trained token for SFT), `smooth_loss` the same over the last ten or so;
    `tokens` counts non-padding tokens so far; `metrics` is what else the objective watches.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    smooth_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validated(Event):
    """The validation loss after `step` updates, in the unit of the steps' losses; `best` so far or not."""

    step: int
    loss: float
    best: bool
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RolledOut(Event):
    """Before update `step + 1` the model wrote so many answers to learn from; what shows how they changed."""

    step: int
    answers: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryMeasured(Event):
    """Peak memory of training in bytes, as the plan predicted it and as measured.

    Measured is resident memory on a CPU, allocated memory on a GPU; `probe` is true for the update tried before
    training.
    """

    predicted: int
    measured: int
    probe: bool


@dataclass(frozen=True, slots=True)
class Checkpointed(Event):
    """The state after `step` updates is on disk."""

    step: int
    folder: str


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """Training goes on after `step` updates. Later events of steps after it replace the earlier ones."""

    step: int


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """Training ended before its last planned step, with the reason."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something the user should know that did not stop the run."""

    message: str


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The command ended; `status` is `done`, `failed` or `interrupted`."""

    status: str


def _name(cls: type[Event]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


KINDS: dict[str, type[Event]] = {_name(cls): cls for cls in Event.__subclasses__()}


class Log:
    """Appends events to a file; each is in the hands of the operating system when `write` returns.

    `listen` is told of each event as it is written: so a terminal shows what the log says.
    """

    def __init__(self, path: Path, listen: Callable[[Event], None] = lambda _: None) -> None:
        self.path = path
        self.listen = listen
        self._file: BinaryIO | None = None

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("a+b", buffering=0)  # a line is one call, so that two writers do not mix theirs
        end = self._file.seek(0, os.SEEK_END)
        if end:
            self._file.seek(end - 1)
            if self._file.read(1) != b"\n":  # torn by a crash or a full disk
                line = b"\n" + line
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, event: Event) -> None:
        """Append one event. Numbers that are not finite are written as strings, since JSON has no word for them.

        Raises:
            Missing: the disk is full or cannot be written.
        """
        body = {k: _plain(v) for k, v in asdict(event).items()}
        line = {"v": VERSION, "time": round(time.time(), 3), "event": _name(type(event)), **body}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self._append(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise Missing(
                f"cannot write the log: {error.strerror}",
                where=str(self.path),
                fix="free some space, then run the same command again",
            ) from error
        self.listen(event)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> Iterator[tuple[float, Event]]:
    """All events of a log with the time each was written, oldest first.

    Torn lines, and kinds and fields this version does not know, are skipped: a newer Luthier may have added them.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                kind = KINDS[line["event"]]
                known = {f.name: f.type for f in fields(kind)}
                body = {k: float(v) if known[k] is float else v for k, v in line.items() if k in known}
                moment, event = float(line["time"]), kind(**body)
            except (ValueError, KeyError, TypeError):
                continue
            yield moment, event


def training_curve(path: Path) -> tuple[list[Step], list[Validated]]:
    """Steps and validations in order, with those that a resume took back left out."""
    steps: dict[int, Step] = {}
    validations: dict[int, Validated] = {}
    for _, event in read(path):
        if isinstance(event, Step):
            steps[event.step] = event
        elif isinstance(event, Validated):
            validations[event.step] = event
        elif isinstance(event, Resumed):
            steps = {k: v for k, v in steps.items() if k <= event.step}
            validations = {k: v for k, v in validations.items() if k <= event.step}
    return [steps[k] for k in sorted(steps)], [validations[k] for k in sorted(validations)]
