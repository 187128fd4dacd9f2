"""Rows of unusual length: outside of given bounds, or far from the other rows of their source."""

import struct
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from luthier.data.step import PASS, Finding, Resolution, Row, Rows, RowStep, SetStep
from luthier.recipe.curate import Length as LengthSettings
from luthier.recipe.curate import LengthOutliers as OutlierSettings
from luthier.types import Fate, Json

RISK = 0.4
NORMAL = 1.4826
"""The median absolute deviation times this is the standard deviation of a normal distribution."""
LENGTH = struct.Struct("<d")


class Length(RowStep[LengthSettings]):
    """Bounds on the words of prompt, answers and plain texts."""

    name = "length"

    def look(self, row: Row) -> Finding:
        """The first text outside of its bounds."""
        s = self.settings
        if row.is_document:
            return self._judge("the text", [row.text], s.document_words)
        asked = self._judge("the prompt", [row.prompt], s.prompt_words)
        return self._judge("an answer", row.answers, s.answer_words) if asked is PASS else asked

    @staticmethod
    def _judge(what: str, texts: Iterable[str], bounds: tuple[int, int | None]) -> Finding:
        least, most = bounds
        for text in texts:
            if least <= 1 and most is None and text and not text.isspace():  # nothing to count
                continue
            words = len(text.split())
            if words < least:
                return Finding(Fate("too_short", f"{what} has {words} words, at least {least} asked", score=words))
            if most is not None and words > most:
                return Finding(Fate("too_many_words", f"{what} has {words} words, at most {most} allowed", score=words))
        return PASS


class LengthOutliers(SetStep[OutlierSettings]):
    """Answers, or plain texts, whose length lies far from the median of their source, on a logarithmic scale."""

    name = "length_outliers"

    def __init__(self, settings: OutlierSettings, around: object) -> None:
        super().__init__(settings, around)  # type: ignore[arg-type]
        self.found = 0

    def signature(self, row: Row) -> bytes:
        """Logarithm of the letters, and the source."""
        letters = len(row.text) if row.is_document else sum(map(len, row.answers))
        return LENGTH.pack(float(np.log1p(letters))) + row.content.source.encode("utf-8", "replace")

    def resolve(self, rows: Rows) -> Iterator[Resolution]:
        """Risk for rows that are far off; none goes."""
        sources: defaultdict[bytes, tuple[array[int], array[float]]] = defaultdict(lambda: (array("q"), array("d")))
        for number, found in rows.signatures():
            numbers, lengths = sources[found[LENGTH.size :]]
            numbers.append(number)
            lengths.append(LENGTH.unpack_from(found)[0])
        self.found = 0
        for numbers, lengths in sources.values():
            if len(numbers) >= self.settings.least_rows:
                yield from self._far(numbers, np.array(lengths))

    def _far(self, numbers: Sequence[int], lengths: np.ndarray) -> Iterator[Resolution]:
        middle = np.median(lengths)
        deviation = NORMAL * np.median(np.abs(lengths - middle))
        if deviation == 0:  # most answers are of one length, so that any other would be infinitely far
            return
        far = (lengths - middle) / deviation
        for i in np.flatnonzero(np.abs(far) > self.settings.deviations).tolist():
            self.found += 1
            letters, usual = round(np.expm1(lengths[i])), round(np.expm1(middle))
            yield Resolution(numbers[i], risk=RISK, note=f"{letters:,} letters, {usual:,} are usual in its source")

    def report(self) -> Json:
        """How many rows are sent to review."""
        return {"far": self.found}
