"""Reviewing a dataset: which rows to look at, and what the verdicts say of the others.

The share of defects is estimated from the rows drawn at random alone, with the exact interval of Clopper and Pearson
(1934). The draw is stratified by source and length in proportion, which can only make the true error smaller than that
of a plain draw. Rows with the highest risk are looked at besides, and do not enter the estimate. Where every row was
seen nothing is estimated: the share is that of all of them.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.data.ledger import Entry, read_ledger
from luthier.data.verdicts import Drawn, Verdict

RISKY = 0.25
"""Share of the sample that is drawn for its risk."""
CONFIDENCE = 0.95
STRATA = 3
"""Thirds of each source by length."""
REVIEWED = ("rejected_in_review",)
"""Fates that only a verdict gives: such rows still count for the estimate."""
MOST_MORE = 100_000


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of the defects of a dataset.

    `seen` and `defects` count the rows drawn at random, `low` and `high` bound their share of defects, `more` is how
    many further good rows would bring `high` below the limit, None where no number of them could.
    """

    seen: int
    defects: int
    rate: float
    low: float
    high: float
    limit: float
    more: int | None
    risky_seen: int
    risky_defects: int

    @property
    def passed(self) -> bool:
        """True when training may start."""
        return self.seen > 0 and self.high < self.limit


def reviewable(folder: Path) -> list[Entry]:
    """The rows of a dataset artifact that a verdict can be on: those kept, and those that one has rejected."""
    return [entry for entry in read_ledger(folder) if entry.fate == "kept" or entry.fate in REVIEWED]


def draw_sample(entries: Sequence[Entry], size: int) -> list[tuple[Entry, Drawn]]:
    """The rows to look at, random ones first, in the order in which to look at them.

    The order depends on the content alone: a larger sample begins with the smaller one, and looking again finds the
    same rows.
    """
    risky = sorted((e for e in entries if e.risk > 0), key=lambda e: (-e.risk, e.content))[: round(RISKY * size)]
    order = _in_proportion(entries)
    drawn: list[tuple[Entry, Drawn]] = [(entry, "random") for entry in order[: size - len(risky)]]
    taken = {entry.content for entry, _ in drawn}
    return drawn + [(entry, "risk") for entry in risky if entry.content not in taken]


def _in_proportion(entries: Sequence[Entry]) -> list[Entry]:
    """All rows in an order of which every beginning holds each stratum in proportion."""
    sources: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        sources[entry.source].append(entry)
    placed: list[tuple[float, str, Entry]] = []
    for rows in sources.values():
        rows.sort(key=lambda e: (e.tokens or 0, e.content))
        third = math.ceil(len(rows) / STRATA)
        for first in range(0, len(rows), third):
            stratum = sorted(rows[first : first + third], key=lambda e: e.content)
            placed += [((k + 0.5) / len(stratum), e.content, e) for k, e in enumerate(stratum)]
    return [entry for *_, entry in sorted(placed, key=lambda item: item[:2])]


def outlook(entries: Sequence[Entry], verdicts: Mapping[str, Verdict], limit: float) -> Outlook:
    """What the verdicts on rows of this dataset say of it."""
    known = {entry.content for entry in entries}
    mine = [verdict for content, verdict in verdicts.items() if content in known]
    random = [verdict for verdict in mine if verdict.drawn == "random"]
    others = [verdict for verdict in mine if verdict.drawn != "random"]
    seen, defects = len(random), sum(verdict.defective for verdict in random)
    bad = sum(verdict.defective for verdict in others)
    low, high = interval(defects, seen)
    more, unseen, share = _more(defects, seen, limit), len(known) - len(mine), (defects + bad) / max(len(known), 1)
    if share < limit and known:  # few rows: once all were seen, their share is known and not estimated
        more = unseen if more is None else min(more, unseen)
    if not unseen and known:
        low = high = share
    return Outlook(seen, defects, defects / seen if seen else 0.0, low, high, limit, more, len(others), bad)


def interval(defects: int, seen: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson 1934): what lies outside is refused by a binomial test."""
    if not seen:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if defects == 0 else _solve(lambda p: 1 - _at_most(defects - 1, seen, p) - tail, rising=True)
    high = 1.0 if defects == seen else _solve(lambda p: _at_most(defects, seen, p) - tail, rising=False)
    return low, high


def _at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) for X binomial with n and p."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or k >= n else 0.0
    ways = (math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1))
    return min(1.0, math.fsum(math.exp(w + i * math.log(p) + (n - i) * math.log1p(-p)) for i, w in enumerate(ways)))


def _solve(gap: Callable[[float], float], *, rising: bool) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if (gap(middle) < 0) == rising:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _more(defects: int, seen: int, limit: float) -> int | None:
    """How many further good rows bring the upper end below the limit."""
    if seen and interval(defects, seen)[1] < limit:
        return 0
    low, high = seen, max(seen, 1)
    while interval(defects, high)[1] >= limit:
        low, high = high, 2 * high
        if high > MOST_MORE:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if interval(defects, middle)[1] >= limit else (low, middle)
    return high - seen
