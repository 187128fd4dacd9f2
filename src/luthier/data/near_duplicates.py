"""Near duplicates: rows of which most five-word shingles are the same (MinHash, every pair checked in full)."""

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.clusters import Near, Signer
from luthier.data.minhash import Banding
from luthier.data.shingles import U64
from luthier.data.step import Resolution, Row, Rows, SetStep, Surroundings
from luthier.recipe.curate import NearDuplicates as Settings
from luthier.types import Example, Fate, Json

QUALITY, QUALITY_BYTES = [("rating", "<f4"), ("letters", "<u4"), ("document", "?")], struct.Struct("<fI?")
"""What decides which row of a cluster stays, and what becomes of the others."""


def _quality(row: Row) -> bytes:
    rating = row.content.rating if isinstance(row.content, Example) else None
    return QUALITY_BYTES.pack(rating or 0.0, min(len(row.text), 2**32 - 1), row.is_document)


class NearDuplicates(SetStep[Settings]):
    """The same text again with small changes.

    Of a cluster stays the row with the highest rating, then the longest, then the first. Every row that goes is as
    close to the row that stays as the threshold asks; a chain of small changes never takes a text far from it.
    """

    name = "near_duplicates"

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        super().__init__(settings, around)
        banding = Banding.at(settings.threshold)
        self.signer = Signer(banding)
        self.record = np.dtype([*QUALITY, ("signature", banding.record)])
        self.found: Json = {}

    def signature(self, row: Row) -> bytes:
        """MinHash keys and bits behind what decides who stays; nothing for a row without letters."""
        return self.signatures([row])[0]

    def signatures(self, rows: Sequence[Row]) -> list[bytes]:
        """The same for many rows."""
        made = zip(rows, self.signer.signatures([row.text for row in rows]), strict=True)
        return [_quality(row) + found if found else b"" for row, found in made]

    def resolve(self, rows: Rows) -> Iterator[Resolution]:
        """Fates, or `together`, for rows that are close to another."""
        numbers, records = self._read(rows)

        def fetch(positions: Sequence[int]) -> Iterator[U64]:
            return (self.signer.shingle_set(row.text) for row in rows.some(numbers[positions].tolist()))

        near = Near(records["signature"], fetch, self.settings.threshold)
        # from the best to the least: the highest rating, then the longest; of equal ones the first
        best = np.lexsort((-records["letters"].astype(np.int64), -records["rating"]))
        drop = np.where(records["document"], self.settings.documents == "drop", self.settings.conversations == "drop")
        del records  # signatures are what takes most memory
        centre, alike, component = near.settle(np.argsort(best))
        gone = drop & (centre != np.arange(len(numbers)))
        for i in np.flatnonzero(gone).tolist():
            fate = Fate("near_duplicate", f"{alike[i]:.0%} of the shingles are the same", score=float(alike[i]))
            yield Resolution(int(numbers[i]), fate, kept=int(numbers[centre[i]]))
        together = _together(component, gone)
        for i, first in together:
            yield Resolution(int(numbers[i]), together=int(numbers[first]))
        close = near.buckets.rows
        self.found = {"compared": len(close), "dropped": int(gone.sum()), "kept_together": len(together)}

    def _read(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Numbers and signatures of the rows that have letters."""
        numbers, whole = array("q"), bytearray()
        for number, found in rows.signatures():
            if found:
                numbers.append(number)
                whole += found
        return np.array(numbers, np.int64), np.frombuffer(whole, self.record)

    def report(self) -> Json:
        """Rows that were compared in full, that went, and that stay on the same side as another."""
        return self.found


def _together(components: NDArray[np.int64], gone: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Of each component the rows that stay, but the first of them, with the first."""
    stay = np.flatnonzero(~gone)
    _, first, which = np.unique(components[stay], return_index=True, return_inverse=True)
    head = stay[first[which]]
    others = head != stay
    return list(zip(stay[others].tolist(), head[others].tolist(), strict=True))
