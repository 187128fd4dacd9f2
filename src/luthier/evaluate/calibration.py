"""A/A calibration: a model against itself under other conditions, to learn what changes by chance alone.

The same items are asked again in batches of another size (and with another seed, where answers are drawn). An item
whose score changes in more than a tenth of the repeats is flaky: it is counted and shown, and decides nothing. What the
others change by is the noise floor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.evaluate.items import Task
from luthier.evaluate.metrics import detectable
from luthier.types import Answer

FLAKY = 0.1
CONDITIONS = (1024, 3072)
"""Prompt tokens in a batch, by repeat; an evaluation takes 8192."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What changed by chance in one suite: items asked, repeats, the flip rate of each item that changed at all."""

    n: int
    repeats: int
    flips: Mapping[str, float]

    @property
    def flaky(self) -> list[str]:
        """Items that decide nothing."""
        return sorted(item for item, rate in self.flips.items() if rate > FLAKY)

    @property
    def floor(self) -> float:
        """The share of items that change, flaky ones left out."""
        kept = [rate for rate in self.flips.values() if rate <= FLAKY]
        return sum(kept) / max(1, self.n - len(self.flaky))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, with what follows from it."""
        flaky = self.flaky
        least = detectable(max(self.floor, 1 / max(1, self.n)), self.n - len(flaky)) if self.n > len(flaky) else 1.0
        return {
            "n": self.n,
            "repeats": self.repeats,
            "flips": dict(self.flips),
            "flaky": flaky,
            "floor": self.floor,
            "detectable": least,
        }


def noise_of(first: Sequence[Answer], repeats: Sequence[Sequence[Answer]]) -> Noise:
    """The flip rate of each item over repeats of the same items."""
    scores = {(a.item, a.sample): a.score for a in first}
    changed: dict[str, list[bool]] = {}
    for repeat in repeats:
        for answer in repeat:
            key = (answer.item, answer.sample)
            if key in scores:
                changed.setdefault(answer.item, []).append(answer.score != scores[key])
    rates = {item: sum(found) / len(found) for item, found in changed.items()}
    return Noise(len(changed), len(repeats), {item: rate for item, rate in rates.items() if rate})


def calibrate(
    tasks: Sequence[Task],
    answers: Mapping[str, Sequence[Answer]],
    ask: Callable[[Task, int], Sequence[Answer]],
    most: int,
) -> dict[str, Any]:
    """Ask again under each condition.

    Args:
        tasks: as they were asked.
        answers: what was said the first time, by task.
        ask: answers to a task in batches of so many tokens, from no memory.
        most: items of a suite that are asked again, the first ones.

    Returns:
        For `calibration.json`: by task its noise.
    """
    found = {}
    for task in tasks:
        if task.kind == "harness":
            continue  # its items are not ours to choose from
        part = replace(task, items=task.items[:most])
        repeats = []
        for number, tokens in enumerate(CONDITIONS, 1):
            other = replace(part, decoding=replace(part.decoding, seed=part.decoding.seed + number))
            repeats.append(ask(other if part.decoding.temperature else part, tokens))
        found[task.name] = noise_of(answers[task.name], repeats).to_json()
    return found
