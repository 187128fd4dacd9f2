"""MinHash signatures (Broder 1997) cut into bands (Indyk and Motwani 1998), and which rows share a band.

Two sets with Jaccard index s agree in one of 256 minima with probability s, in all r of a band with s^r, and in at
least one of b bands with 1 - (1 - s^r)^b. With the lowest four bits of each minimum beside the bands (b-bit minwise
hashing, Li and Koenig 2010) a pair that shares a band by chance is told from a close one without its texts.

Plain numpy; `compiled.py` has the same as machine code.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.shingles import BASE, U64, mix

U32 = NDArray[np.uint32]

MINIMA = 256
BITS = 4
WORDS_OF_BITS = MINIMA * BITS // 64
NIBBLES = np.uint64(0x1111111111111111)

BANDINGS = ((0.75, 32, 8), (0.5, 64, 4), (0.0, 128, 2))
"""From which Jaccard index on, how many bands, of how many minima. A pair at that index is found with probability
0.97, 0.98 and, at 0.2, 0.99."""
MARGIN = 0.13
"""How far the estimate from 256 minima may fall below the threshold before a pair is not looked at: 4.5 deviations."""


def _permutations() -> tuple[U32, U32]:
    """Factors (odd, so that multiplying is one to one modulo 2^32) and summands."""
    drawn = mix(np.arange(1, 2 * MINIMA + 1, dtype=np.uint64) * BASE) >> np.uint64(32)
    return (drawn[:MINIMA] | np.uint64(1)).astype(np.uint32), drawn[MINIMA:].astype(np.uint32)


FACTORS, SUMMANDS = _permutations()


@dataclass(frozen=True, slots=True)
class Banding:
    """How a signature is cut."""

    bands: int
    rows: int

    @classmethod
    def at(cls, threshold: float) -> "Banding":
        """The banding that finds pairs at and above a Jaccard index."""
        return next(cls(bands, rows) for least, bands, rows in BANDINGS if threshold >= least)

    def chance(self, jaccard: float) -> float:
        """With which probability a pair shares at least one band."""
        return float(1 - (1 - jaccard**self.rows) ** self.bands)

    @property
    def record(self) -> np.dtype[Any]:
        """One signature: a key a band, and the lowest bits of all minima."""
        return np.dtype([("keys", np.uint32, (self.bands,)), ("bits", np.uint64, (WORDS_OF_BITS,))])


def minima(shingles: U64) -> U32:
    """The least value of each of 256 permutations over the shingles, `[256]`."""
    values = (shingles >> np.uint64(32)).astype(np.uint32)
    least = np.full(MINIMA, np.uint32(2**32 - 1))
    for start in range(0, len(values), 512):
        some = values[start : start + 512, None] * FACTORS + SUMMANDS
        np.minimum(least, some.min(axis=0), out=least)
    return least


def signature(shingles: U64, banding: Banding) -> bytes:
    """The signature of a set of shingles; nothing for an empty one, which resembles nothing."""
    if not len(shingles):
        return b""
    least = minima(shingles)
    found = np.zeros(1, banding.record)
    key = np.zeros(banding.bands, np.uint64)
    for value in least.reshape(banding.bands, banding.rows).T:
        key = mix((key + value.astype(np.uint64)) * BASE)
    found["keys"] = key >> np.uint64(32)
    lowest = (least.astype(np.uint64) & np.uint64(2**BITS - 1)).reshape(WORDS_OF_BITS, 64 // BITS)
    found["bits"] = (lowest << (np.arange(64 // BITS, dtype=np.uint64) * np.uint64(BITS))).sum(axis=1, dtype=np.uint64)
    return found.tobytes()


def estimate(bits: U64, other: U64) -> float:
    """The Jaccard index that the lowest bits of two signatures tell of, chance agreements taken off."""
    different = bits ^ other
    different |= different >> np.uint64(1)
    different |= different >> np.uint64(2)
    agree = 1 - int(np.bitwise_count(different & NIBBLES).sum()) / MINIMA
    chance = 2.0**-BITS
    return (agree - chance) / (1 - chance)
