"""Numbers with their errors, and the difference of two models on the same items.

| what | formula | source |
| --- | --- | --- |
| interval of a share | Wilson score | Wilson 1927 |
| interval of a paired difference of shares | score, which holds when one model wins every difference | Tango 1998 |
| test of a paired difference of shares | exact McNemar: binomial on the discordant items | McNemar 1947 |
| interval of a mean loss per token | ratio estimator, rows as clusters | Cochran 1977, section 6 |
| interval and test of graded scores | BCa bootstrap, sign flips | `resample` |
| many suites at once | Holm's step-down | Holm 1979 |
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from luthier.evaluate.resample import bootstrap, permutation
from luthier.types import Metric

Z95 = NormalDist().inv_cdf(0.975)
"""Two-sided 95 %."""
Z_ONE_SIDED = NormalDist().inv_cdf(0.95)
"""One-sided 95 %: the bounds the gate decides on."""


ALPHA = 0.05
"""Chance of a false alarm that the gate allows itself, one-sided."""


class Difference(NamedTuple):
    """After minus before, on the same items; each bound holds one-sided at 95 %."""

    value: float
    low: float
    high: float
    p_better: float
    """Chance of a difference at least this much better if there were none."""
    p_worse: float
    """Chance of a difference at least this much worse if there were none."""
    discordant: float
    """Share of items on which the two differ; for graded scores the mean squared difference, its counterpart."""


def share(name: str, scores: Sequence[float]) -> Metric:
    """The mean of scores between 0 and 1, with Wilson's interval (exact for shares, wide enough for graded scores)."""
    n, value = len(scores), sum(scores) / len(scores)
    middle = (value + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(value * (1 - value) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return Metric(name, value, max(0.0, middle - half), min(1.0, middle + half), n)


def mean_score(name: str, scores: Sequence[float]) -> Metric:
    """The mean over items by the interval that fits the scores: Wilson for shares, the bootstrap for graded ones."""
    if all(score in (0.0, 1.0) for score in scores):
        return share(name, scores)
    value, low, high = bootstrap(scores)
    return Metric(name, value, low, high, len(scores))


def mean_per_token(name: str, sums: Sequence[float], counts: Sequence[int]) -> Metric:
    """Summed losses over summed tokens; rows are drawn, not tokens, so the error is that of the ratio over rows."""
    total, n = sum(counts), len(sums)
    value = sum(sums) / total
    spread = sum((s - value * c) ** 2 for s, c in zip(sums, counts, strict=True))
    half = Z95 * math.sqrt(spread * n / max(1, n - 1)) / total
    return Metric(name, value, value - half, value + half, n, lower_is_better=True)


def paired_shares(before: Sequence[float], after: Sequence[float], alpha: float = ALPHA) -> Difference:
    """The difference of two sets of 0/1 scores on the same items; each bound holds at 1 - alpha."""
    n = len(before)
    won = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    low, high = score_bound(won, lost, n, alpha), -score_bound(lost, won, n, alpha)
    both = won + lost
    return Difference((won - lost) / n, low, high, binomial_tail(won, both), binomial_tail(lost, both), both / n)


def score_bound(won: int, lost: int, n: int, alpha: float = ALPHA) -> float:
    """Lower one-sided bound of a paired difference of shares: where Tango's score statistic reaches 1.645, at 95 %."""
    reach = NormalDist().inv_cdf(1 - alpha)
    low, high = -1.0, (won - lost) / n
    for _ in range(50):  # the statistic falls as the assumed difference rises
        d = (low + high) / 2
        b = (2 * n - won + lost) * d - won - lost
        down = (math.sqrt(max(0.0, b * b + 8 * n * lost * d * (1 - d))) - b) / (4 * n)  # most likely share of losses
        spread = math.sqrt(max(0.0, n * (2 * down + d * (1 - d))))
        low, high = (d, high) if won - lost - n * d > reach * spread else (low, d)
    return low


def paired_means(before: Sequence[float], after: Sequence[float], alpha: float = ALPHA) -> Difference:
    """The mean of paired differences with a normal interval; for losses per row, which have no bound."""
    gaps = [a - b for b, a in zip(before, after, strict=True)]
    n, value = len(gaps), sum(gaps) / len(gaps)
    error = math.sqrt(sum((g - value) ** 2 for g in gaps) / max(1, n - 1) / n)
    # Without any spread there is either no difference at all or one beyond doubt.
    p_better = 1 - NormalDist().cdf(value / error) if error else float(value <= 0)
    p_worse = NormalDist().cdf(value / error) if error else float(value >= 0)
    square = sum(g * g for g in gaps) / n
    half = NormalDist().inv_cdf(1 - alpha) * error
    return Difference(value, value - half, value + half, p_better, p_worse, square)


def paired_graded(before: Sequence[float], after: Sequence[float], alpha: float = ALPHA) -> Difference:
    """The mean of paired differences of graded scores: bounds by the bootstrap, chances by flipping signs."""
    gaps = [a - b for b, a in zip(before, after, strict=True)]
    value, low, high = bootstrap(gaps, confidence=1 - 2 * alpha)
    better, worse = permutation(gaps)
    return Difference(value, low, high, better, worse, sum(g * g for g in gaps) / len(gaps))


def paired(before: Sequence[float], after: Sequence[float], alpha: float = ALPHA) -> Difference:
    """The paired difference by the method that fits the scores: shares (or their negatives), graded scores."""
    seen = {*before, *after}
    if seen <= {0.0, 1.0} or seen <= {0.0, -1.0}:
        return paired_shares(before, after, alpha)
    return paired_graded(before, after, alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false alarm among them stays at the level of one (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def binomial_tail(k: int, n: int) -> float:
    """P(X >= k) for X ~ Binomial(n, 1/2), exact; 1 when n is 0."""
    ways, total = math.comb(n, k), 0
    for i in range(k, n + 1):
        total += ways
        ways = ways * (n - i) // (i + 1)
    return total / 2**n  # type: ignore[no-any-return]  # integers of any size: no overflow


def items_needed(gap: float, discordant: float) -> int:
    """Items for a one-sided 5 % test to see a paired difference of `gap` in 80 of 100 cases.

    Args:
        gap: the difference to see, as a share.
        discordant: share of items on which the two models differ.
    """
    power = NormalDist().inv_cdf(0.8)
    return math.ceil((Z_ONE_SIDED + power) ** 2 * max(discordant, gap) / gap**2) if gap > 0 else 0


def detectable(discordant: float, n: int) -> float:
    """The drop that a one-sided 5 % test on n paired items sees in 80 of 100 cases: the minimum detectable effect."""
    power = NormalDist().inv_cdf(0.8)
    return min(1.0, (Z_ONE_SIDED + power) * math.sqrt(discordant / n)) if n else 1.0
