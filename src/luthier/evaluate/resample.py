"""Intervals and tests by resampling items, vectorised; the same seed gives the same numbers.

| what | source |
| --- | --- |
| BCa bootstrap interval | Efron 1987; acceleration from the jackknife, which for a mean is its skewness |
| paired permutation test | signs of the differences are flipped (Fisher 1935) |

Items are drawn, never answers: several answers to one item, or several items of one family, are first averaged, or
they would count as more evidence than they are.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
RESAMPLES = 10_000
_CHUNK = 1 << 22
_NORMAL = NormalDist()


def by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> list[float]:
    """The mean of each cluster, in the order of first appearance."""
    sums: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums.setdefault(cluster, []).append(value)
    return [sum(found) / len(found) for found in sums.values()]


def resampled(rows: Array, statistic: Callable[[Array], Array], resamples: int, seed: int) -> Array:
    """A statistic of resamples of the rows.

    Args:
        rows: [n, columns] what is summed over a resample.
        statistic: from the means of the columns [resamples, columns] to [resamples].
        resamples: how many.
        seed: of the draw.
    """
    draw, n = np.random.default_rng(seed), len(rows)
    size = max(1, _CHUNK // n)
    found = []
    for start in range(0, resamples, size):
        picked = draw.integers(0, n, (min(size, resamples - start), n))
        found.append(statistic(np.stack([rows[:, c][picked].mean(1) for c in range(rows.shape[1])], axis=1)))
    return np.concatenate(found)


def _first(means: Array) -> Array:
    return means[:, 0]


def bootstrap(
    values: Any,
    *,
    statistic: Callable[[Array], Array] = _first,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of means over items with its two-sided BCa interval.

    Args:
        values: [items], or [items, columns] for a statistic of several means, a ratio for example.
        statistic: from means [k, columns] to [k]; the first mean itself unless given.
        confidence: of the interval.
        resamples: how many.
        seed: of the draw.

    Returns:
        The value, and the lower and upper bound.
    """
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    n = len(rows)
    value = float(statistic(rows.mean(0)[None])[0])
    if n < 2 or np.ptp(rows, axis=0).max() == 0:
        return value, value, value
    drawn = np.sort(resampled(rows, statistic, resamples, seed))
    # Ties count half, so that a statistic on a lattice is not shifted.
    below = (np.searchsorted(drawn, value, "left") + np.searchsorted(drawn, value, "right")) / 2 / resamples
    middle = _NORMAL.inv_cdf(min(max(below, 1 / resamples), 1 - 1 / resamples))
    left_out = statistic((rows.sum(0) - rows) / (n - 1))
    gaps = left_out.mean() - left_out
    spread = float((gaps**2).sum())
    skew = float((gaps**3).sum()) / (6 * spread**1.5) if spread else 0.0
    bounds = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = middle + _NORMAL.inv_cdf(tail)
        share = _NORMAL.cdf(middle + z / (1 - skew * z))
        bounds.append(float(np.quantile(drawn, share)))
    return value, bounds[0], bounds[1]


def permutation(gaps: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """One-sided p-values of paired differences by flipping their signs: of a rise, of a fall; exact up to 12 items.

    Returns:
        The chance of a mean at least this high, and at least this low, if there were no difference.
    """
    values = np.array([gap for gap in gaps if gap], dtype=np.float64)
    if not len(values):
        return 1.0, 1.0
    observed = values.sum()
    slack = 1e-12 * np.abs(values).sum()
    if len(values) <= 12:
        signs = 1.0 - 2.0 * ((np.arange(1 << len(values))[:, None] >> np.arange(len(values))) & 1)
        sums = signs @ values
        return float((sums >= observed - slack).mean()), float((sums <= observed + slack).mean())
    draw = np.random.default_rng(seed)
    size = max(1, _CHUNK // len(values))
    high = low = 0
    for start in range(0, resamples, size):
        signs = draw.integers(0, 2, (min(size, resamples - start), len(values)), dtype=np.int8) * 2.0 - 1
        sums = signs @ values
        high += int((sums >= observed - slack).sum())
        low += int((sums <= observed + slack).sum())
    return (high + 1) / (resamples + 1), (low + 1) / (resamples + 1)  # the observed one is one of them


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right (Chen et al. 2021, equation 1).

    Args:
        n: samples drawn.
        correct: of these, right ones.
        k: samples in question, at most n.
    """
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))
