"""What sampled answers are worth: the parts of a recipe's reward, asked, summed and counted.

A part that raises, takes too long or says what is no number gives no reward: the answer is left out of the update, the
failure is counted under the part's name, and when more than `MOST_FAILED` of a rollout fail the run ends.
"""

import importlib.util
import inspect
import math
import queue
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from luthier.errors import LuthierError, RecipeError, TrainingStopped
from luthier.evaluate.code import code_block
from luthier.evaluate.items import Item
from luthier.evaluate.sandbox import Limits, run_programs
from luthier.evaluate.scorers import SCORERS, find_scorer
from luthier.recipe import CodeReward, LengthReward, ModelReward, OverlongReward, PythonReward, ScorerReward
from luthier.train.reinforce import beyond
from luthier.types import Message, Score

MOST_FAILED = 0.2
"""Share of a rollout's answers that may have no reward."""
IN_A_ROW = 4
"""So many answers in a row for which a function takes too long, and it is not asked of the others of the rollout."""
WHERE = "objective.rewards"


@dataclass(frozen=True, slots=True)
class Written:
    """An answer to be judged: what was asked, the text of the answer, its tokens, and whether it ended by itself."""

    item: Item
    text: str
    tokens: int
    ended: bool

    @property
    def talk(self) -> list[Message]:
        """The conversation with this answer."""
        return [*self.item.prompt, Message("assistant", self.text)]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a part has no reward for an answer."""

    reason: str


Found = list[float | Failure]
Judge = Callable[[Sequence[Written]], Found]


@dataclass(slots=True)
class Worth:
    """What answers are worth: the sum of the parts (None where one failed), the parts themselves, what failed.

    `spread` is, for ensembles, the standard deviation of the members over each answer.
    """

    total: list[float | None]
    parts: dict[str, list[float | None]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    spread: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a reward, ready to be asked."""

    name: str
    weight: float
    judge: Judge


class Rewards:
    """A weighted sum of parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)

    def __call__(self, answers: Sequence[Written]) -> Worth:
        """What each answer is worth."""
        total: list[float | None] = [0.0] * len(answers)
        worth = Worth(total)
        for part in self.parts:
            values: list[float | None] = []
            for i, found in enumerate(part.judge(answers)):
                if isinstance(found, Failure) or not math.isfinite(found):
                    reason = found.reason if isinstance(found, Failure) else f"it said {found}"
                    worth.failed[f"{part.name}: {reason}"] += 1
                    values.append(None)
                    total[i] = None
                    continue
                values.append(found)
                before = total[i]
                total[i] = None if before is None else before + part.weight * found
            worth.parts[part.name] = values
            worth.spread = getattr(part.judge, "spread", []) or worth.spread  # a single model has none
        return worth


def require(worth: Worth) -> None:
    """End the run where a reward fails too often to go on.

    Raises:
        TrainingStopped: with the part and what it said.
    """
    missing = sum(value is None for value in worth.total)
    if missing > MOST_FAILED * len(worth.total):
        what, count = worth.failed.most_common(1)[0]
        raise TrainingStopped(
            f"{missing} of {len(worth.total)} answers have no reward; {count} times {what}",
            where=WHERE,
            fix="mend that reward; answers without one are never taken to be worth 0",
        )


class _Clock:
    """Calls a function in a thread beside, and gives up waiting for it after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.late = f"no answer within {seconds:g} s"
        self.asked: queue.SimpleQueue[Any] | None = None

    def __call__(self, ask: Callable[[], float | Failure]) -> float | Failure:
        if self.asked is None:
            self.asked = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self.asked,), daemon=True).start()
        said: queue.SimpleQueue[float | Failure] = queue.SimpleQueue()
        self.asked.put((ask, said))
        try:
            return said.get(timeout=self.seconds)
        except queue.Empty:
            self.asked = None  # that thread hangs; the next answer gets another
            return Failure(self.late)


def _serve(asked: "queue.SimpleQueue[Any]") -> None:
    while True:
        ask, said = asked.get()
        try:
            said.put(ask())
        except LuthierError as error:
            said.put(Failure(str(error)))
        except BaseException as error:  # whatever a user's function raises, SystemExit too
            said.put(Failure(f"{type(error).__name__}: {error}"))


class _Function:
    """A function of answer and item, asked answer by answer."""

    def __init__(self, score: Callable[[str, Item], Score | float], seconds: float) -> None:
        self.score, self.clock = score, _Clock(seconds)

    def _ask(self, answer: Written) -> float | Failure:
        found = self.score(answer.text, answer.item)
        if isinstance(found, Score):
            return Failure("the answer could not be judged") if found.outcome == "failed" else found.value
        return _number(found)

    def __call__(self, answers: Sequence[Written]) -> Found:
        found: Found = []
        late = Failure(self.clock.late)
        for answer in answers:
            if len(found) >= IN_A_ROW and all(one == late for one in found[-IN_A_ROW:]):
                rest = Failure(f"not asked: {IN_A_ROW} answers in a row had {self.clock.late}")
                return [*found, *[rest] * (len(answers) - len(found))]
            found.append(self.clock(partial(self._ask, answer)))
        return found


def _number(said: Any) -> float | Failure:
    """What a user's function said, where it is a number: Python's, NumPy's, or a tensor of one element."""
    try:
        if isinstance(said, str | bytes):
            raise TypeError
        return float(said)
    except (TypeError, ValueError, RuntimeError):
        return Failure(f"it said {said!r:.60}, which is no number")


def _scorer(section: ScorerReward, _: "Place") -> Judge:
    return _Function(find_scorer(section.scorer, section.settings, where=WHERE), section.seconds)


def _python(section: PythonReward, place: "Place") -> Judge:
    path = find_file(section.path, place.home)
    spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path} is no Python file", where=WHERE, fix="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}"
        raise RecipeError(f"{path} is not Python: {error.msg}", where=where, fix="mend that line") from error
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        raise RecipeError(
            f"{path} cannot be run: {type(error).__name__}: {error}", where=WHERE, fix="mend it"
        ) from error
    function = getattr(module, section.function, None)
    if not callable(function):
        raise RecipeError(f"{path} has no function '{section.function}'", where=WHERE, fix="check the name")
    _check_takes(function, f"{path}: {section.function}")
    return _Function(function, section.seconds)


def _check_takes(function: Callable[..., Any], name: str) -> None:
    """Refuse a function that cannot be called with an answer and an item."""
    fix = "write it as def reward(answer: str, item: Item) -> float"
    if inspect.iscoroutinefunction(function):
        raise RecipeError(f"{name} is asynchronous, and its answer is needed at once", where=WHERE, fix=fix)
    try:
        inspect.signature(function).bind("", None)
    except TypeError as error:
        raise RecipeError(
            f"{name} cannot be called with an answer and an item: {error}", where=WHERE, fix=fix
        ) from error
    except ValueError:
        pass  # built in, without a signature: asking it will tell


def find_file(path: str, home: Path) -> Path:
    """A file of the recipe's, beside it or in the working folder.

    Raises:
        RecipeError: there is none.
    """
    found = next((p for p in (home / path, Path(path)) if p.is_file()), None)
    if found is None:
        raise RecipeError(f"there is no file '{path}'", where=WHERE, fix="check the path")
    return found


def _code(section: CodeReward, place: "Place") -> Judge:
    limits = Limits(seconds=section.seconds)

    def judge(answers: Sequence[Written]) -> Found:
        programs = [(code_block(a.text), a.item.expected, None) for a in answers]
        ran = run_programs(programs, limits, unsafe=place.unsafe_code)
        return [
            Failure(f"the sandbox broke: {one.reason}") if one.outcome == "sandbox" else float(one.outcome == "pass")
            for one in ran
        ]

    return judge


def _length(section: LengthReward, _: "Place") -> Judge:
    return lambda answers: [1 - min(1.0, abs(a.tokens - section.goal) / section.goal) for a in answers]


def _overlong(section: OverlongReward, place: "Place") -> Judge:
    return lambda answers: beyond(torch.tensor([a.tokens for a in answers]), place.room, section.room).tolist()


class Ensemble:
    """Reward models, each brought to mean 0 and spread 1 where that is asked for, and combined."""

    def __init__(
        self, members: Sequence[Callable[[Sequence[list[Message]]], list[float]]], scales: Sequence[Any], combine: str
    ) -> None:
        self.members, self.scales, self.combine = list(members), list(scales), combine
        self.spread: list[float] = []

    def __call__(self, answers: Sequence[Written]) -> Found:
        """What they say together of each answer."""
        talks = [answer.talk for answer in answers]
        rows = [self._asked(member, scale, talks) for member, scale in zip(self.members, self.scales, strict=True)]
        columns = list(zip(*rows, strict=True))
        self.spread = (
            [] if len(rows) < 2 else [statistics.stdev(c) if all(map(_fine, c)) else math.nan for c in columns]
        )
        return [self._one(column) for column in columns]

    def _asked(self, member: Any, scale: Any, talks: Sequence[list[Message]]) -> Found:
        try:
            return [scale(value) for value in member(talks)]
        except LuthierError:  # one of them cannot be read: find out which
            found: Found = []
            for talk in talks:
                try:
                    found.append(scale(member([talk])[0]))
                except LuthierError as error:
                    found.append(Failure(error.what))
            return found

    def _one(self, column: Sequence[float | Failure]) -> float | Failure:
        failure = next((value for value in column if isinstance(value, Failure)), None)
        if failure is not None:
            return failure
        values = [value for value in column if not isinstance(value, Failure)]
        if self.combine == "worst":
            return min(values)
        spread = statistics.stdev(values) if self.combine == "mean_minus_spread" and len(values) > 1 else 0.0
        return statistics.fmean(values) - spread


def _fine(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Place:
    """Where rewards are looked for and what they need to know.

    `home` is the recipe's folder, `room` the longest answer in tokens, `open_models` opens reward models, each with
    what brings its scores to mean 0 and spread 1.
    """

    home: Path
    room: int
    unsafe_code: bool = False
    open_models: Callable[[ModelReward], tuple[list[Any], list[Any]]] | None = None


def _model(section: ModelReward, place: Place) -> Judge:
    assert place.open_models is not None
    members, scales = place.open_models(section)
    return Ensemble(members, scales, section.combine or "mean")


KINDS: dict[str, Callable[[Any, Place], Judge]] = {
    "scorer": _scorer,
    "code": _code,
    "python": _python,
    "length": _length,
    "overlong": _overlong,
    "model": _model,
}


def make_rewards(sections: Sequence[Any], place: Place) -> Rewards:
    """The rewards of a recipe, with names of which no two are the same."""
    parts: list[Part] = []
    for section in sections:
        name = section.name or getattr(section, "scorer", None) or getattr(section, "function", None) or section.kind
        taken = {part.name for part in parts}
        unique = next(n for n in (name, *(f"{name}-{k}" for k in range(2, 99))) if n not in taken)
        parts.append(Part(unique, section.weight, KINDS[section.kind](section, place)))
    return Rewards(parts)


def judged_by_rows(sections: Sequence[Any]) -> bool:
    """Whether every part compares with the rows' own answers, so that there is nothing in it to be gamed."""
    return all(
        isinstance(s, CodeReward) or (isinstance(s, ScorerReward) and s.scorer in SCORERS and not s.settings)
        for s in sections
    ) and all(s.weight > 0 for s in sections)
