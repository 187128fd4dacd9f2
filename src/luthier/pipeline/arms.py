"""The processes of the speed comparison, their turns, and how long it all takes.

Every arm gets the same time, a turn of a few seconds at a time, and at least one update. An arm whose first update
takes longer than all of its time is called once more and no further, so that a tool that is slow on a machine shows
so without holding up the rest.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WARM = 2
"""Updates of each arm that do not count; one of an arm that is slow."""
CEILING = "matmul"
COMPILING, STARTING = 90.0, 8.0
"""Seconds that an arm takes to compile its blocks, and to start, until it is known better."""
DIED = "its process died; too little memory is the usual reason"
HALF = ("trl-default",)
"""Arms that compute in bfloat16 and recompute activations whatever the machine is good at."""


@dataclass(slots=True)
class Arm:
    """One arm's process and what it said so far."""

    name: str
    process: subprocess.Popen[str]
    said: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    warm: int = WARM

    def listen(self) -> None:
        """Wait for its answer to the last order."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said |= json.loads(line) if line else {"error": DIED}
        self.steps += self.said.pop("steps", [])

    def order(self, **what: Any) -> None:
        """Tell it what to do next."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def work(self, seconds: float) -> None:
        """Let it work for so long, at least one update."""
        self.order(seconds=seconds)
        self.listen()

    def end(self) -> None:
        """Let it end; what it checks last it says last."""
        if self.process.poll() is None and not self.failed:
            self.order(end=True)
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self.said |= json.loads(line)
            self.said.pop("steps", None)
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(timeout=120)
        if self.process.stdout:
            self.process.stdout.close()

    @property
    def failed(self) -> str | None:
        """Why there is no number."""
        return self.said.get("error")

    @property
    def counted(self) -> list[dict[str, Any]]:
        """The updates that count."""
        return [step for step in self.steps if step["number"] >= self.warm]

    @property
    def worked(self) -> float:
        """Seconds of the updates that count."""
        return float(sum(step["seconds"] for step in self.counted))

    @property
    def update(self) -> float | None:
        """Seconds of an update, as last seen; None before the first."""
        return float(self.steps[-1]["seconds"]) if self.steps else None


def start(work: Path, name: str, folder: Path) -> Arm:
    """Start an arm's process; `folder` gets its log."""
    module = name if name == "unsloth" else "worker"
    command = [sys.executable, "-m", f"luthier.train.arms.{module}", str(work), name]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - this program itself
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    return Arm(name, process)


@dataclass(slots=True)
class Clock:
    """What is still to come, in seconds: guessed from the plain computation until an arm has shown what it takes."""

    rounds: int
    seconds: float
    starting: float = STARTING
    plain: float = 1.0
    """What the plain computation of one update took, in float32."""
    slower: float = 1.0
    """How many times slower bfloat16 is here."""
    asked: float = 0.0
    """Updates of forward passes that each arm makes before it begins, for a reference."""

    @property
    def whole(self) -> float:
        """What each arm gets."""
        return self.rounds * self.seconds

    def guess(self, name: str) -> float:
        """Seconds of one update of an arm that has not shown it."""
        return self.plain * (self.slower * 4 / 3 if name in HALF else 1.0)

    def left(self, arms: Sequence[Arm], waiting: Sequence[str] = ()) -> float:
        """Until all turns are done.

        Args:
            arms: those that run.
            waiting: those that are not started yet.
        """
        total = sum(self.starting + self._turns(name, None, 0, 0.0) for name in waiting)
        total += sum(self.guess(name) * self.asked / 3 for name in waiting)
        return total + sum(
            self._turns(arm.name, arm.update, len(arm.steps), arm.worked) for arm in arms if not arm.failed
        )

    def _turns(self, name: str, update: float | None, done: int, worked: float) -> float:
        compiling = "compile" in name and done < WARM  # what was seen of it says nothing of later updates
        each = self.guess(name) if update is None or compiling else update
        if name == CEILING:
            return max(0.0, self.whole - worked)
        warm = max(0, (1 if each > self.whole else WARM) - done) * each
        if not done and compiling:
            warm += COMPILING
        if worked >= self.whole:
            return 0.0
        return warm + max(self.whole - worked, 0.0 if worked else each)


def said(seconds: float) -> str:
    """A duration in words, no more exact than it is known."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    return f"about {round(seconds / 60)} minutes"


def take_turns(arms: Sequence[Arm], clock: Clock, tell: Callable[[str], None], waiting: Sequence[str] = ()) -> None:
    """A first turn to warm up, then the rounds, in which nobody works but one."""

    def note(arm: Arm, what: str) -> None:
        tell(f"{arm.name}: {what} · {said(clock.left(arms, waiting))} left")

    for arm in arms:
        if arm.failed:
            continue
        note(arm, "warming up")
        arm.work(0.0)
        if arm.failed or arm.name == CEILING:
            continue
        if arm.update is not None and arm.update > clock.whole and "compile" not in arm.name:
            arm.warm = 1
            continue
        arm.work(0.0)
    for number in range(clock.rounds):
        for arm in arms:
            if arm.failed or (arm.worked >= clock.whole and arm.name != CEILING):
                continue
            note(arm, f"turn {number + 1} of {clock.rounds}")
            arm.work(clock.seconds)
