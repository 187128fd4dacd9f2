"""What votes say: win rates, rankings of several models, and how many more votes would decide.

| what | source |
| --- | --- |
| win rate, ties half a win to each | prompts are resampled, not votes: votes on one prompt go together |
| Bradley-Terry strengths | logistic maximum likelihood with a small ridge (Bradley and Terry 1952; Hunter 2004) |
| length-controlled rate | logistic regression on tanh of the standardised difference in length (Dubois et al. 2024) |
| agreement | Cohen's kappa (Cohen 1960) |
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from luthier.evaluate.resample import Array, bootstrap, by_cluster
from luthier.types import Metric

RIDGE = 1e-2
ELO = 400 / math.log(10)
"""From logits to the scale people know; for display only."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote: which model won (None for a tie), on which prompt, by whom; `longer` is log of the ratio of lengths."""

    first: str
    second: str
    winner: str | None
    prompt: str
    rater: str = ""
    longer: float = 0.0


def win_rate(ballots: Sequence[Ballot], model: str) -> Metric:
    """How often a model wins against the others, ties half; the interval draws prompts."""
    mine = [ballot for ballot in ballots if model in (ballot.first, ballot.second)]
    points = [0.5 if b.winner is None else float(b.winner == model) for b in mine]
    if not points:
        return Metric(f"win rate of {model}", math.nan, 0.0, 1.0, 0)
    means = by_cluster(points, [ballot.prompt for ballot in mine])
    value, low, high = bootstrap(means)
    if low == high:  # all prompts agree: as many wins in a row bound the rate by the rule of three
        low, high = max(0.0, value - 3 / len(means)), min(1.0, value + 3 / len(means))
    return Metric(f"win rate of {model}", value, low, high, len(points))


def strengths(ballots: Sequence[Ballot], anchor: str) -> dict[str, float]:
    """Bradley-Terry strengths in logits, that of the anchor 0."""
    names = sorted({name for b in ballots for name in (b.first, b.second)})
    design = np.zeros((len(ballots), len(names)))
    won = np.zeros(len(ballots))
    for k, ballot in enumerate(ballots):
        design[k, names.index(ballot.first)], design[k, names.index(ballot.second)] = 1.0, -1.0
        won[k] = 0.5 if ballot.winner is None else float(ballot.winner == ballot.first)
    found = logistic(design, won)
    base = found[names.index(anchor)] if anchor in names else found.mean()
    return {name: float(value - base) for name, value in zip(names, found, strict=True)}


def ranking(ballots: Sequence[Ballot], anchor: str, *, resamples: int = 500, seed: int = 0) -> list[Metric]:
    """Strengths on Elo's scale with 95 % intervals from resampled prompts, the strongest first."""
    point = strengths(ballots, anchor)
    by_prompt: dict[str, list[Ballot]] = {}
    for ballot in ballots:
        by_prompt.setdefault(ballot.prompt, []).append(ballot)
    groups, draw = list(by_prompt.values()), np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in point}
    for _ in range(resamples):
        picked = [b for k in draw.integers(0, len(groups), len(groups)) for b in groups[k]]
        for name, value in strengths(picked, anchor).items():
            drawn[name].append(value)
    counts = Counter(name for b in ballots for name in (b.first, b.second))
    found = []
    for name, value in point.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        found.append(Metric(name, ELO * value, float(ELO * low), float(ELO * high), counts[name]))
    return sorted(found, key=lambda metric: -metric.value)


def logistic(design: Array, won: Array, ridge: float = RIDGE, steps: int = 50) -> Array:
    """Coefficients [columns] of a logistic regression of outcomes 0 to 1 by Newton's method."""
    found = np.zeros(design.shape[1])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
        slope = design.T @ (won - chance) - ridge * found
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + ridge * np.eye(design.shape[1])
        step = np.linalg.solve(curve, slope)
        found = found + step
        if np.abs(step).max() < 1e-10:
            break
    return found


def length_controlled(ballots: Sequence[Ballot], model: str) -> float:
    """The win rate of a model if both answers were equally long."""
    mine = [b for b in ballots if model in (b.first, b.second)]
    signs = np.array([1.0 if b.first == model else -1.0 for b in mine])
    longer = np.array([b.longer for b in mine]) * signs
    won = np.array([0.5 if b.winner is None else float(b.winner == model) for b in mine])
    spread = longer.std()
    design = np.stack([np.ones(len(mine)), np.tanh(longer / spread) if spread else np.zeros(len(mine))], axis=1)
    return float(1 / (1 + np.exp(-logistic(design, won)[0])))


def votes_needed(rate: float, power: float = 0.8) -> int:
    """Decisive votes for a two-sided 5 % test to tell this win rate from one half, `power` of the time."""
    if rate == 0.5:
        return 0
    z, reach = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(power)
    spread = z * 0.5 + reach * math.sqrt(rate * (1 - rate))
    return math.ceil((spread / abs(rate - 0.5)) ** 2)


def kappa(one: Sequence[str], other: Sequence[str]) -> float:
    """Agreement of two raters beyond chance: 1 whole, 0 none; not a number when both say one thing only."""
    n = len(one)
    seen = sum(a == b for a, b in zip(one, other, strict=True)) / n
    left, right = Counter(one), Counter(other)
    chance = sum(left[k] * right[k] for k in left) / n**2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan
