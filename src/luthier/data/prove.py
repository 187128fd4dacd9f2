"""The proof that no twins stand on both sides of a division: every pair is compared that could be one.

Twins are rows whose sets of shingles have a Jaccard index of at least the threshold. Two sets of sizes a and b can only
reach the threshold t when they share one of the first a - ceil(t a) + 1 and first b - ceil(t b) + 1 elements, in any
order that is the same for both (prefix filtering: Chaudhuri, Ganti & Kaushik 2006; Bayardo, Ma & Srikant 2007). With
the rare elements first these are few, so the comparison is complete and still quick. It shares no step with the MinHash
by which near duplicates are found before.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.clusters import Signer
from luthier.data.divide import divide
from luthier.data.folds import by_fold
from luthier.data.memory import PARTS
from luthier.data.shingles import U64, jaccard, joined
from luthier.data.sieve import Sieve
from luthier.data.table import KEPT, Table
from luthier.errors import DataError
from luthier.recipe import Split
from luthier.types import Json

ROUNDS = 6
BLOCK = 4_000_000
"""Shingles of held-out rows that are in memory at once."""
I64 = NDArray[np.int64]


class Twins(NamedTuple):
    """Two rows on different sides, and their Jaccard index."""

    one: int
    other: int
    alike: float


def divide_and_prove(table: Table, split: Split) -> Json:
    """Give every kept row its side so that no twins are on different ones; what the proof took.

    Twins that the first division parts (near duplicates are looked for by chance, or not at all) are tied together, and
    the rows are divided again. Of folds all are compared with each other, so that the proof holds for each of them.

    Raises:
        DataError: rows cannot be divided, or not without parting twins.
    """
    tied = 0
    apart = by_fold(split.folds) if split.folds else "side"
    for _ in range(ROUNDS):
        divide(table, split)
        found = twins_across(table, split.twins, apart)
        if not found:
            return {"threshold": split.twins, "tied": tied, "across": 0}
        tied += len(found)
        table.link((pair.one, pair.other) for pair in found)
    first = found[0]
    raise DataError(
        f"{len(found)} pairs of twins stand on both sides of the split, for example {table.where(first.one)} and "
        f"{table.where(first.other)} ({first.alike:.0%} of their shingles are the same)",
        fix="let data.curate.near_duplicates drop them, or raise data.split.twins if they may be parted",
    )


def twins_across(table: Table, threshold: float, apart: str = "side") -> list[Twins]:
    """All twins on different sides; `apart` is what tells the sides in SQL, with `train` as one of its values.

    Held-out rows are few, and of the others few have much in common with any: these are told by a sieve in one pass
    over all texts, and then held-out rows that have much in common with one of them. Only what is left is compared.
    """
    held = f"{KEPT} AND {apart} != 'train'"
    sides = table.sql(f"SELECT DISTINCT {apart} FROM rows WHERE {held}").fetchall()
    others = f"{KEPT} AND {apart} = 'train'" if len(sides) == 1 else KEPT
    close = _that_pass(table, others, table, held, threshold)
    near = _that_pass(table, held, table, others, threshold, close)
    signer = Signer()
    return [
        pair
        for index in _indices(table, held, near, apart, threshold)
        for number, side, text in table.texts(others, close, apart)
        for pair in index.twins(number, side, signer.shingle_set(text))
    ]


def twins_of_held_out(further: Table, table: Table, threshold: float) -> Iterator[tuple[int, Twins]]:
    """Kept rows of a further table that have a twin among the held-out ones of this one, and that twin."""
    held = f"{KEPT} AND side != 'train'"
    close = _that_pass(further, KEPT, table, held, threshold)
    near = _that_pass(table, held, further, KEPT, threshold, close)
    signer = Signer()
    for index in _indices(table, held, near, "side", threshold):
        for number, _, text in further.texts(KEPT, close):
            if pair := next(index.twins(number, "train", signer.shingle_set(text)), None):
                yield number, pair


def _that_pass(
    table: Table, where: str, known: Table, held: str, threshold: float, among: Sequence[int] | None = None
) -> Sequence[int]:
    """The numbers of rows that could be twins of one of the known rows, which are those `held`, or `among` these."""
    (size,) = known.sql(f"SELECT total(content) FROM rows WHERE {held}").fetchone()
    if among is not None:
        size = size * len(among) / max(known.count, 1)
    signer = Signer()
    sieve = Sieve(int(size), (signer.shingle_set(text) for _, _, text in known.texts(held, among)))
    found = array("q")
    rows = table.texts(where)
    while part := list(islice(rows, PARTS)):
        passed = sieve.pass_through([text for _, _, text in part], threshold)
        found.extend(part[i][0] for i in passed.nonzero()[0].tolist())
    return found


class _HeldRow(NamedTuple):
    number: int
    side: str
    shingles: U64


def _indices(table: Table, held: str, near: Sequence[int], apart: str, threshold: float) -> Iterator["_Index"]:
    """Indices of the held-out rows that are near, as many at a time as memory is meant for."""
    signer = Signer()
    block: list[_HeldRow] = []
    size = 0
    for number, side, text in table.texts(held, near, apart):
        block.append(_HeldRow(number, side, signer.shingle_set(text)))
        size += len(block[-1].shingles)
        if size >= BLOCK:
            yield _Index(block, threshold)
            block, size = [], 0
    if block:
        yield _Index(block, threshold)


class _Index:
    """Held-out rows by the rare ones of their shingles."""

    def __init__(self, rows: list[_HeldRow], threshold: float) -> None:
        self.rows, self.threshold = rows, threshold
        everything, starts = joined(row.shingles for row in rows)
        self.known, inverse, counts = np.unique(everything, return_inverse=True, return_counts=True)
        self.order = np.empty(len(self.known), np.int64)
        self.order[np.lexsort((self.known, counts))] = np.arange(len(self.known))
        posted, owners = [], []
        for i, row in enumerate(rows):
            ranks = np.sort(self.order[inverse[starts[i] : starts[i + 1]]])[: self._prefix(len(row.shingles))]
            posted.append(ranks)
            owners.append(np.full(len(ranks), i))
        ranks = np.concatenate(posted) if posted else np.zeros(0, np.int64)
        by_rank = np.argsort(ranks, kind="stable")
        self.ranks = ranks[by_rank]
        self.owners = (np.concatenate(owners) if owners else np.zeros(0, np.int64))[by_rank]

    def _prefix(self, size: int) -> int:
        return size - math.ceil(self.threshold * size - 1e-9) + 1 if size else 0

    def twins(self, number: int, side: str, shingles: U64) -> Iterator[Twins]:
        """The held-out rows on another side of which a row is a twin; of two held-out rows one names the other."""
        for i in self._candidates(shingles).tolist():
            row = self.rows[i]
            if row.side == side or (side != "train" and row.number < number):
                continue
            alike = jaccard(row.shingles, shingles)
            if alike >= self.threshold:
                yield Twins(row.number, number, alike)

    def _candidates(self, shingles: U64) -> I64:
        prefix = self._prefix(len(shingles))
        at = np.minimum(np.searchsorted(self.known, shingles), len(self.known) - 1)
        here = at[self.known[at] == shingles] if len(self.known) else at[:0]
        rare = prefix - (len(shingles) - len(here))  # what no held-out row has comes first in the order
        if rare <= 0:
            return np.zeros(0, np.int64)
        ranks = np.sort(self.order[here])[:rare]
        first, last = np.searchsorted(self.ranks, ranks), np.searchsorted(self.ranks, ranks, "right")
        parts = [self.owners[a:b] for a, b in zip(first, last, strict=True) if b > a]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
