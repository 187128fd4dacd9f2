"""Reviewing a dataset: which rows to look at, and what the verdicts say of the others.

What was seen is known: once its verdicts have taken effect none of it is bad. So the question is how many defects may
be left among the rows that nobody saw. The share of defects is estimated from a draw by a hash of the content, in
proportion to sources and lengths, with the exact interval of Clopper and Pearson (1934); how many may be left from the
exact bound for draws without replacement (Katz 1953; Buonaccorsi 1987), less those found. Rows that were looked at for
their risk are known, and enter no estimate.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from luthier.artifact import digest
from luthier.data.ledger import Entry, read_ledger
from luthier.data.verdicts import Drawn, Verdict

RISKY = 0.25
"""Share of the sample that is drawn for its risk."""
CONFIDENCE = 0.95
STRATA = 3
"""Thirds of each source by length."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of the defects of a dataset.

    Attributes:
        rows: rows that can be reviewed.
        seen: rows of the random draw that were seen: those before the first that nobody saw.
        defects: those of them that had one.
        rate: their share, of the rows as curation leaves them.
        low: the lower end of its exact 95 % interval.
        high: the upper end.
        left: the largest share of defects that may be left once the verdicts have taken effect, at 97.5 %.
        limit: below which `left` has to be.
        more: how many further rows, all good, bring it there.
        risky_seen: rows that were seen besides, and enter no estimate.
        risky_defects: those of them that had a defect.
        waiting: rows of the draw that were seen, and count as soon as those before them are seen, too.
        earlier: verdicts of draws from before the rows changed.
        sample: the size of the sample that reaches as far as is needed.
    """

    rows: int
    seen: int
    defects: int
    rate: float
    low: float
    high: float
    left: float
    limit: float
    more: int
    risky_seen: int
    risky_defects: int
    waiting: int
    earlier: int
    sample: int

    @property
    def passed(self) -> bool:
        """True when training may start."""
        return self.rows > 0 and self.left < self.limit


def reviewable(folder: Path) -> list[Entry]:
    """The rows of a dataset artifact that a verdict can be on: those kept, and those that one has taken out."""
    return [entry for entry in read_ledger(folder) if entry.fate == "kept" or entry.rule == "review"]


def frame_of(entries: Sequence[Entry]) -> str:
    """What rows are drawn from, as a hash: verdicts do not change it, other rules and other rows do."""
    return digest(sorted({entry.content for entry in entries}))[:16]


def draw_sample(
    entries: Sequence[Entry], size: int, verdicts: Mapping[str, Verdict] = MappingProxyType({})
) -> list[tuple[Entry, Drawn]]:
    """The rows to look at, random ones first, in the order in which to look at them, those seen before among them.

    The order depends on the content alone: a larger sample begins with the smaller one, and looking again finds the
    same rows.
    """
    order, _, known = draw_order(entries, verdicts)
    hopeful = [e for e in entries if e.risk > 0 and e.content not in known]
    risky = sorted(hopeful, key=lambda e: (-e.risk, e.content))[: round(RISKY * size)]
    drawn: list[tuple[Entry, Drawn]] = [(entry, "random") for entry in order[: size - len(risky)]]
    taken = {entry.content for entry, _ in drawn}
    return drawn + [(entry, "risk") for entry in risky if entry.content not in taken]


class Order(NamedTuple):
    """The order of a random draw.

    Attributes:
        rows: all rows that can be drawn: a beginning of them is a random sample of them.
        earlier: random verdicts of draws that are spent.
        known: the content of rows that a spent draw has seen: nobody looks at them again.
    """

    rows: list[Entry]
    earlier: list[Verdict]
    known: frozenset[str]


def draw_order(entries: Sequence[Entry], verdicts: Mapping[str, Verdict]) -> Order:
    """The rows to draw from, in order. Those that were looked at for their risk are known, and not drawn from.

    A draw is spent when a defect that it found has left the dataset through a rule or a change of the source, and not
    through the verdict: the rule may have been made after that very row, so that the rows of the draw that stayed say
    too little bad of those that nobody saw. They are known then, and no longer drawn from; and a defect that has left
    still counts among what that draw found.
    """
    rows = {entry.content: entry for entry in entries}
    held = {verdict.frame for content, verdict in verdicts.items() if content in rows}
    random = [verdict for verdict in verdicts.values() if verdict.drawn == "random"]
    spent = held & {verdict.frame for verdict in random if verdict.defective and verdict.content not in rows}
    earlier = [v for v in random if v.frame in spent and (v.defective or v.content in rows)]
    known = frozenset(content for content, v in verdicts.items() if v.frame in spent and content in rows)
    apart = known | {content for content, verdict in verdicts.items() if verdict.drawn != "random"}
    return Order([e for e in _in_proportion(list(rows.values())) if e.content not in apart], earlier, known)


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
    order, earlier, _ = draw_order(entries, verdicts)
    rows = {entry.content for entry in entries}
    mine = {content: verdict for content, verdict in verdicts.items() if content in rows}
    found = [mine[e.content].defective if e.content in mine else None for e in order]
    kept = max(1, len(rows) - sum(verdict.decision == "reject" for verdict in mine.values()))
    draws = [_Draw(found, 0, 0, kept)]
    if earlier:
        draws.append(_Draw(found, len(earlier), sum(verdict.defective for verdict in earlier), kept))
    best = min(draws, key=lambda draw: draw.left(draw.seen))
    seen, defects = best.seen + best.earlier, best.defects(best.seen) + best.bad
    low, high = interval(defects, seen)
    more = min(draw.more(limit) for draw in draws)
    risky = [verdict for verdict in mine.values() if verdict.drawn != "random"]
    return Outlook(
        rows=len(rows),
        seen=seen,
        defects=defects,
        rate=defects / seen if seen else 0.0,
        low=low,
        high=high,
        left=best.left(best.seen),
        limit=limit,
        more=more,
        risky_seen=len(risky),
        risky_defects=sum(verdict.defective for verdict in risky),
        waiting=sum(one is not None for one in found[best.seen :]),
        earlier=len(earlier),
        sample=_sample_of(min(sum(one is not None for one in found) + more, len(order))),
    )


def _sample_of(random: int) -> int:
    """The size of a sample with so many random rows, when as many risky ones as may be stand beside them."""
    return next(size for size in range(random, 2 * random + 2) if size - round(RISKY * size) >= random)


@dataclass(frozen=True)
class _Draw:
    """Rows in the order of the draw: which have a defect, None where nobody looked; and what is left of other draws.

    Attributes:
        found: of each row of the order whether it has a defect, None where nobody saw it.
        earlier: rows of earlier draws beside the order.
        bad: those of them that had a defect.
        kept: rows of the dataset once the verdicts have taken effect.
    """

    found: Sequence[bool | None]
    earlier: int
    bad: int
    kept: int

    @cached_property
    def seen(self) -> int:
        """How many rows of the order were seen before the first that nobody saw."""
        return next((i for i, one in enumerate(self.found) if one is None), len(self.found))

    @cached_property
    def _defects(self) -> list[int]:
        """The places of known defects in the order, from 1 on."""
        return [i for i, one in enumerate(self.found, 1) if one]

    def defects(self, seen: int) -> int:
        """Known defects among the first rows of the order."""
        return bisect_right(self._defects, seen)

    def left(self, seen: int) -> float:
        """The largest share of defects that may be left, when the first `seen` rows show no further defect."""
        rows, drawn, bad = len(self.found) + self.earlier, seen + self.earlier, self.defects(seen) + self.bad
        return (most_defects(rows, drawn, bad) - bad) / self.kept

    def more(self, limit: float) -> int:
        """How many further rows have to be seen, all good, until what may be left is below the limit."""
        ends = [place - 1 for place in self._defects if place > self.seen] + [len(self.found)]
        start = self.seen
        for end in ends:  # between two known defects every further row brings the bound down
            if end >= start and self.left(end) < limit:
                enough = start + bisect_left(range(start, end + 1), True, key=lambda m: self.left(m) < limit)
                return sum(one is None for one in self.found[:enough])
            start = end + 1
        return sum(one is None for one in self.found)


def most_defects(rows: int, seen: int, defects: int, confidence: float = CONFIDENCE) -> int:
    """The most defects there may be in all `rows` when so many were found among those `seen`: an exact bound.

    The largest number with which so few would be found in a draw without replacement (hypergeometric) with a
    probability of at least half of what the confidence leaves.
    """
    low, high = defects, rows - (seen - defects)
    while low < high:
        middle = (low + high + 1) // 2
        if _so_few(defects, rows, middle, seen) >= (1 - confidence) / 2:
            low = middle
        else:
            high = middle - 1
    return low


def _so_few(k: int, rows: int, bad: int, seen: int) -> float:
    """P(X <= k) for X hypergeometric: `seen` of `rows` drawn, of which `bad` are bad."""
    first = max(0, seen - (rows - bad))
    whole = _log_ways(rows, seen)
    logs = (_log_ways(bad, i) + _log_ways(rows - bad, seen - i) - whole for i in range(first, min(k, bad, seen) + 1))
    return min(1.0, math.fsum(map(math.exp, logs)))


def _log_ways(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


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
