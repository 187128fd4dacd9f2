"""Rows that are much alike: which share a band, which of these are close indeed, and what stays of each cluster.

Stars, not chains: the best row that is left becomes a centre and takes every row that is close to it, exact Jaccard
index, until none is left. A row that is close to a member only becomes a centre itself. Components do follow chains:
they are for dividing rows, where a chain must not be cut.

`Plain` says what the functions of `compiled.py` do; these are taken where numba is installed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from luthier.data.chained import chain
from luthier.data.minhash import MARGIN, Banding, estimate, signature
from luthier.data.shingles import U64, distinct, fold, jaccard, joined, shingle_set, shingles, words

I64 = NDArray[np.int64]
FIRST_ROWS, MOST_SHINGLES = 1_000, 8_000_000
"""Rows that are compared at once at first, and shingles (64 MB) for which there are more of them from then on."""


def compiled() -> ModuleType | None:
    """The compiled functions, or nothing where numba is not installed: the results are the same, later."""
    try:
        from luthier.data import compiled as found
    except ImportError:
        return None
    return found


class Signer:
    """Words, shingles and signatures of texts as hashes, compiled where possible."""

    def __init__(self, banding: Banding | None = None) -> None:
        banding = banding or Banding(32, 8)
        self.banding = banding
        self._compiled = compiled()
        self._scratch = np.empty(1 << 12, np.uint64)

    def signatures(self, texts: Sequence[str]) -> list[bytes]:
        """The signatures of texts; nothing for a text without letters."""
        if self._compiled is None:
            return [signature(shingles(text), self.banding) for text in texts]
        records, counts = np.empty(len(texts), self.banding.record), np.empty(len(texts), np.int64)
        self._compiled.signatures(*chain(list(map(fold, texts))), records["keys"], records["bits"], counts)
        size, whole = records.itemsize, records.tobytes()
        return [whole[i * size : (i + 1) * size] if count else b"" for i, count in enumerate(counts.tolist())]

    def shingle_set(self, text: str) -> U64:
        """The distinct shingles of a text, sorted."""
        if self._compiled is None:
            return shingle_set(text)
        data = self._folded(text)
        return distinct(self._scratch[: self._compiled.shingles(data, self._scratch)])

    def words(self, text: str) -> U64:
        """The hashes of the words of a text in order."""
        if self._compiled is None:
            return words(text)
        data = self._folded(text)
        return self._scratch[: self._compiled.words(data, self._scratch)].copy()

    def _folded(self, text: str) -> NDArray[np.uint8]:
        data = np.frombuffer(fold(text), np.uint8)
        if len(self._scratch) < len(data) + 2:
            self._scratch = np.empty(2 * len(data) + 2, np.uint64)
        return data


def _in_order(keys: NDArray[np.uint32]) -> tuple[I64, I64]:
    """Positions of keys in their order, of equal ones in that of the input; and where each different key begins.

    One sort of whole numbers, the key above the position, is several times as fast as a stable argsort.
    """
    whole = keys.astype(np.uint64) << np.uint64(32)
    whole |= np.arange(len(keys), dtype=np.uint64)
    whole.sort()
    high = whole >> np.uint64(32)
    begins = np.ones(len(keys), np.bool_)
    np.not_equal(high[1:], high[:-1], out=begins[1:])
    return (whole & np.uint64(0xFFFFFFFF)).astype(np.int64), np.flatnonzero(begins)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Rows by band: in `order[band]` rows with the same key stand together, from `first[band, row]` to `last`."""

    rows: I64
    order: NDArray[np.int32]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    bits: U64

    @classmethod
    def of(cls, records: NDArray[Any], rows: I64 | None = None) -> "Buckets":
        """Sort the rows of signatures that share at least one band with another; `rows` are their numbers."""
        company = np.zeros(len(records), np.bool_)
        bands = records["keys"].shape[1]
        for band in range(bands):
            turn, starts = _in_order(records["keys"][:, band])
            alone = np.diff(starts, append=len(turn)) == 1
            together = np.ones(len(turn), np.bool_)
            together[starts[alone]] = False
            company[turn[together]] = True
        rows = np.arange(len(records)) if rows is None else rows
        records = records[company]
        order = np.empty((bands, len(records)), np.int32)
        first, last = np.empty_like(order), np.empty_like(order)
        for band in range(bands):
            order[band], starts = _in_order(records["keys"][:, band])
            ends = np.append(starts, len(records))[1:]
            first[band, order[band]] = np.repeat(starts, ends - starts)
            last[band, order[band]] = np.repeat(ends, ends - starts)
        return cls(rows[company], order, first, last, np.ascontiguousarray(records["bits"]))

    def only(self, chosen: NDArray[np.bool_]) -> "Buckets":
        """The buckets without the rows that are not chosen."""
        number = np.cumsum(chosen) - 1
        order = np.empty((len(self.order), int(chosen.sum())), np.int32)
        first, last = np.empty_like(order), np.empty_like(order)
        for band, whole in enumerate(self.order):
            stays = chosen[whole]
            before = np.concatenate([[0], np.cumsum(stays)])
            order[band] = number[whole[stays]]
            first[band] = before[self.first[band][chosen]]
            last[band] = before[self.last[band][chosen]]
        return Buckets(self.rows[chosen], order, first, last, self.bits[chosen])

    def neighbours(self, row: int) -> Iterator[int]:
        """Rows that share a band with one, each once."""
        found = (
            self.order[band, k]
            for band in range(len(self.order))
            for k in range(self.first[band, row], self.last[band, row])
        )
        return iter(dict.fromkeys(int(j) for j in found if j != row))


class Settled(NamedTuple):
    """What rows are to each other.

    `centre` is of each row the one that stays in its place, `alike` how much alike the two are, `component` the first
    row that a chain of close pairs connects it with: `[n]` each.
    """

    centre: I64
    alike: NDArray[np.float64]
    component: I64


class Near:
    """Close pairs among rows, from their signatures; texts are fetched only of rows that have a close signature.

    Args:
        records: the signatures, `[n]` of `banding.record`.
        fetch: shingle sets of rows by their position among the signatures.
        threshold: the least Jaccard index of a close pair.
    """

    def __init__(
        self, records: NDArray[Any], fetch: Callable[[Sequence[int]], Iterable[U64]], threshold: float
    ) -> None:
        self.n, self.threshold, self.least = len(records), threshold, threshold - MARGIN
        self.fetch = fetch
        found = Buckets.of(records)
        self.functions = cast("Any", compiled() or Plain)
        self.buckets = found.only(self.functions.close(*self._bands(found), self.least))

    @staticmethod
    def _bands(buckets: Buckets) -> tuple[Any, ...]:
        return buckets.order, buckets.first, buckets.last, buckets.bits

    def settle(self, rank: I64) -> Settled:
        """What stays of each cluster.

        Args:
            rank: `[n]`; of two close rows the one with the lower number stays, of equal ones the earlier.
        """
        settled = Settled(np.arange(self.n), np.ones(self.n), np.arange(self.n))
        for part, values, starts in self._parts():
            rows = part.rows
            turn = np.argsort(rank[rows], kind="stable")
            args = (*self._bands(part), values, starts)
            centre, settled.alike[rows] = self.functions.stars(*args, turn, self.threshold, self.least)
            settled.centre[rows] = rows[centre]
            settled.component[rows] = rows[self.functions.components(*args, self.threshold, self.least)]
        return settled

    def _parts(self) -> Iterator[tuple[Buckets, U64, I64]]:
        """Rows with their shingles, not many at once: rows that no chain of close signatures connects need not meet."""
        rows = self.buckets.rows
        nothing = np.zeros(0, np.uint64), np.zeros(len(rows) + 1, np.int64)  # sets of nothing are all alike
        group = self.functions.components(*self._bands(self.buckets), *nothing, 0.0, self.least)
        turn = np.argsort(group, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(group[turn])) + 1, len(rows))
        begin, wanted = 0, FIRST_ROWS
        while begin < len(rows):
            end = int(ends[np.searchsorted(ends, min(begin + wanted, len(rows)))])
            chosen = np.zeros(len(rows), np.bool_)
            chosen[turn[begin:end]] = True
            part = self.buckets.only(chosen)
            values, starts = joined(self.fetch(part.rows.tolist()))
            yield part, values, starts
            wanted = max(FIRST_ROWS, MOST_SHINGLES * (end - begin) // max(len(values), 1))
            begin = end

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        """Every close pair, the lower number first. For proofs and small sets: a cluster of n rows has n^2/2."""
        rows = self.buckets.rows.tolist()
        values, starts = joined(self.fetch(rows))
        for i in range(len(rows)):
            a = values[starts[i] : starts[i + 1]]
            for j in self.buckets.neighbours(i):
                if j > i and estimate(self.buckets.bits[i], self.buckets.bits[j]) >= self.least:
                    found = jaccard(a, values[starts[j] : starts[j + 1]])
                    if found >= self.threshold:
                        yield rows[i], rows[j], found


def near_texts(texts: Sequence[str], threshold: float, banding: Banding | None = None) -> Near:
    """The close pairs among texts held in memory. A text without letters is close to none."""
    signer = Signer(banding or Banding.at(threshold))
    signatures = [(i, found) for i, found in enumerate(signer.signatures(texts)) if found]
    records = np.frombuffer(b"".join(found for _, found in signatures), signer.banding.record)
    numbers = [i for i, _ in signatures]
    near = Near(records, lambda rows: (signer.shingle_set(texts[numbers[i]]) for i in rows), threshold)
    return _renumbered(near, np.array(numbers, np.int64), len(texts))


def _renumbered(near: Near, numbers: I64, n: int) -> Near:
    """Rows counted among all texts instead of among those with a signature."""
    b = near.buckets
    near.buckets, near.n = Buckets(numbers[b.rows], b.order, b.first, b.last, b.bits), n
    return near


class Plain:
    """What the compiled functions do, in Python."""

    @staticmethod
    def _sets(values: U64, starts: I64) -> list[U64]:
        return [values[a:b] for a, b in pairwise(starts.tolist())]

    @staticmethod
    def close(order: Any, first: Any, last: Any, bits: U64, least: float) -> NDArray[np.bool_]:
        """Which rows share a band with one whose signature is close enough."""
        buckets = Buckets(np.arange(len(bits)), order, first, last, bits)
        found = (any(estimate(bits[i], bits[j]) >= least for j in buckets.neighbours(i)) for i in range(len(bits)))
        return np.fromiter(found, np.bool_, len(bits))

    @staticmethod
    def stars(
        order: Any,
        first: Any,
        last: Any,
        bits: U64,
        values: U64,
        starts: I64,
        rank: I64,
        threshold: float,
        least: float,
    ) -> tuple[I64, NDArray[np.float64]]:
        """Of each row its centre, and how much alike they are."""
        buckets, sets = Buckets(np.arange(len(bits)), order, first, last, bits), Plain._sets(values, starts)
        centre, alike = np.full(len(bits), -1), np.ones(len(bits))
        for i in rank.tolist():
            if centre[i] >= 0:
                continue
            centre[i] = i
            for j in buckets.neighbours(i):
                if centre[j] < 0 and estimate(bits[i], bits[j]) >= least:
                    found = jaccard(sets[i], sets[j])
                    if found >= threshold:
                        centre[j], alike[j] = i, found
        return centre, alike

    @staticmethod
    def components(
        order: Any, first: Any, last: Any, bits: U64, values: U64, starts: I64, threshold: float, least: float
    ) -> I64:
        """Of each row the first one of its component."""
        buckets, sets = Buckets(np.arange(len(bits)), order, first, last, bits), Plain._sets(values, starts)
        parent = list(range(len(bits)))

        def top(i: int) -> int:
            while parent[i] != i:
                i = parent[i]
            return i

        for i in range(len(bits)):
            for j in buckets.neighbours(i):
                if j > i and estimate(bits[i], bits[j]) >= least and jaccard(sets[i], sets[j]) >= threshold:
                    a, b = top(i), top(j)
                    parent[max(a, b)] = min(a, b)
        return np.array([top(i) for i in range(len(bits))], np.int64)
