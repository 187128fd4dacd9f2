"""A sieve of shingles: it tells texts that cannot be alike to any of a set apart from those that could.

It is a Bloom filter with one hash (Bloom 1970): a bit for each shingle of the set, so a shingle of the set always
passes, another one seldom does. A text of whose different shingles fewer than the threshold pass has a smaller Jaccard
index with each member of the set than that, since the intersection is no larger than what passes and the union no
smaller than the text's own set.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from luthier.data.chained import chain
from luthier.data.clusters import compiled
from luthier.data.shingles import U64, fold, shingle_set

LEAST, MOST = 16, 30
"""Bits of the number of places. The most are 128 MiB: of 60 million shingles one other in eighteen passes."""
PLACES = 4
"""Places for each byte of text; words have five to six letters with their blank, so some twenty for each shingle."""


class Sieve:
    """Which shingles the texts of a set have."""

    def __init__(self, size: int, sets: Iterable[U64]) -> None:
        """Take in a set.

        Args:
            size: about how many bytes the texts of the set have.
            sets: the shingles of each text.
        """
        bits = min(max((size * PLACES).bit_length(), LEAST), MOST)
        self.mask = np.uint64((1 << bits) - 1)
        self.places = np.zeros(1 << (bits - 3), np.uint8)
        for shingles in sets:
            at, bit = self._at(shingles)
            np.bitwise_or.at(self.places, at, bit)
        self._compiled = compiled()

    def _at(self, shingles: U64) -> tuple[U64, NDArray[np.uint8]]:
        """The byte of each shingle and its bit there. The low bits of a hash are as good as any."""
        place = shingles & self.mask
        return place >> np.uint64(3), np.left_shift(1, place & np.uint64(7), dtype=np.uint64).astype(np.uint8)

    def pass_through(self, texts: Sequence[str], threshold: float) -> NDArray[np.bool_]:
        """Which texts could have a Jaccard index of at least `threshold`, above 0, with one of the set: `[n]`."""
        found = np.zeros(len(texts), np.bool_)
        if self._compiled is None:
            for i, text in enumerate(texts):
                shingles = shingle_set(text)
                at, bit = self._at(shingles)
                passed = int(np.count_nonzero(self.places[at] & bit))
                found[i] = passed > 0 and passed >= (threshold - 1e-9) * len(shingles)
        else:
            self._compiled.sift(*chain(list(map(fold, texts))), self.places, self.mask, threshold - 1e-9, found)
        return found
