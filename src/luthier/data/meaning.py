"""Rows that mean the same, by an encoder that the recipe names. Only such recipes load torch here."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.artifact import digest
from luthier.data.step import Resolution, Rows, SetStep
from luthier.recipe.curate import SemanticDuplicates as Settings
from luthier.types import Example, Fate, Json

if TYPE_CHECKING:
    from luthier.models.encoder import Encoder

RISK = 0.5
BLOCK = 256


def identity(name: str, home: Path, step: str) -> str:
    """A hash of the encoder's files, so that another encoder of the same name is another step."""
    from luthier.models.encoder import find_encoder

    return find_encoder(name, home, f"data.curate.{step}.encoder").identity()


def load(name: str, home: Path, step: str) -> "Encoder":
    """The encoder that a step's settings name.

    Raises:
        RecipeError: there is no such folder or hub model.
        DataError: it cannot be loaded.
    """
    from luthier.models.encoder import Encoder, find_encoder

    return Encoder(find_encoder(name, home, f"data.curate.{step}.encoder"))


class SemanticDuplicates(SetStep[Settings]):
    """Rows whose vectors point the same way as a better row's: the highest rating, then the longest, then the first."""

    name = "semantic_duplicates"

    def __init__(self, settings: Settings, around: Any) -> None:
        super().__init__(settings, around)
        self.found: Json = {}

    def fingerprint(self) -> str:
        """The settings and the encoder's files."""
        return digest([super().fingerprint(), identity(self.settings.encoder, self.around.home, self.name)])

    def resolve(self, rows: Rows) -> Iterator[Resolution]:
        """Fates or `together` from the upper threshold on, risk from the lower one on."""
        s = self.settings
        encoder = load(s.encoder, self.around.home, self.name)
        numbers: list[int] = []
        order: list[tuple[float, int]] = []

        def texts() -> Iterator[str]:
            for number, row in rows.rows():
                rating = row.content.rating if isinstance(row.content, Example) else None
                numbers.append(number)
                order.append((-(rating or 0.0), -len(row.text)))
                yield row.text

        vectors = encoder.encode(texts())
        best = np.array(sorted(range(len(numbers)), key=lambda i: order[i]), np.int64)
        centre, alike = stars(vectors[best], s.review_from)
        self.found = {"dropped": 0, "kept_together": 0, "to_review": 0}
        for k in np.flatnonzero(centre != np.arange(len(best))).tolist():
            row, other, score = numbers[best[k]], numbers[best[centre[k]]], float(alike[k])
            yield self._resolution(row, other, score)

    def _resolution(self, row: int, other: int, score: float) -> Resolution:
        reason = f"cosine {score:.3f} with a row that stays"
        if score < self.settings.threshold:
            self.found["to_review"] += 1
            return Resolution(row, risk=RISK, note=reason)
        if self.settings.action == "group":
            self.found["kept_together"] += 1
            return Resolution(row, together=other)
        self.found["dropped"] += 1
        return Resolution(row, Fate("semantic_duplicate", reason, score=score), kept=other)

    def report(self) -> Json:
        """How many rows went, stay with another, or are sent to review."""
        return self.found


def stars(vectors: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each vector the earlier one that stands for it, or itself, and their cosine.

    Vectors come from the best to the least. The first that is left takes all that are left within the threshold; work
    grows with the square of the rows, a hundred thousand rows of 384 numbers take minutes.

    Args:
        vectors: `[n, width]` of length one.
        threshold: least cosine.
    """
    n = len(vectors)
    centre, alike = np.full(n, -1, np.int64), np.ones(n, np.float32)
    for start in range(0, n, BLOCK):
        block = np.flatnonzero(centre[start : start + BLOCK] < 0) + start
        cosines = vectors[block] @ vectors[start:].T
        for i, scores in zip(block.tolist(), cosines, strict=True):
            if centre[i] >= 0:
                continue
            centre[i] = i
            taken = np.flatnonzero((scores >= threshold) & (centre[start:] < 0)) + start
            centre[taken], alike[taken] = i, scores[taken - start]
    return centre, alike
