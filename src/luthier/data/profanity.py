"""Swearing and slurs: a linear classifier over hashed words, pairs of words and letters of words.

What it is, how it was trained and what it is not stands in `profanity.md` beside its weights. A long text is scored in
windows of 32 words, and the highest counts, so that one line is not lost among a thousand.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.artifact import digest
from luthier.data.chained import chain
from luthier.data.documents import verdict
from luthier.data.shingles import BASE, SALT_LETTERS, SALT_PAIR, U64, fold, mix
from luthier.data.step import PASS, Finding, Row, RowStep
from luthier.recipe.curate import Profanity as Settings

BUCKETS_BITS = 17
LEAST_N, MOST_N = 3, 5
WINDOW, STRIDE = 32, 16
WORD = re.compile(rb"[a-z0-9_\x80-\xff]+")
NOISE = re.compile(r"https?://\S+|@\w+|\bRT\b|&#?\w+;")
"""Addresses and names of people, which say nothing."""


def folded(text: str) -> bytes:
    """The text in lower case without addresses and names, in UTF-8."""
    plain = NOISE.sub(" ", text) if "@" in text or "://" in text or "RT" in text or "&" in text else text
    return fold(plain)


def _hash(data: bytes) -> U64:
    h = np.zeros(1, np.uint64)
    for byte in data:
        h = (h + np.uint64(byte) + np.uint64(1)) * BASE
    return mix(h)


def _bucket(h: U64) -> NDArray[np.int64]:
    return (h >> np.uint64(64 - BUCKETS_BITS)).astype(np.int64)


def features(text: str) -> list[NDArray[np.int64]]:
    """The buckets of each word: the word, the pair it makes with the one before, its letters 3 to 5 at a time.

    Letters are bytes, and a word has a blank on both sides.
    """
    found: list[NDArray[np.int64]] = []
    before = np.zeros(1, np.uint64)
    for word in WORD.findall(folded(text)):
        h = _hash(word)
        around = b" " + word + b" "
        parts = [h, mix(h * BASE + before + SALT_PAIR)]
        parts += [
            mix(_hash(around[i : i + n]) + SALT_LETTERS)
            for n in range(LEAST_N, MOST_N + 1)
            for i in range(len(around) - n + 1)
        ]
        found.append(_bucket(np.concatenate(parts)))
        before = h
    return found


def _compiled() -> Any:
    try:
        from luthier.data import compiled_profanity as found
    except ImportError:
        return None
    return found


class Classifier:
    """Weights of the buckets as 8-bit numbers, what these are multiplied by, and a bias."""

    def __init__(self, weights: NDArray[np.int8], scale: float, bias: float) -> None:
        self.weights, self.scale, self.bias = weights, scale, bias
        self.compiled = _compiled()
        if self.compiled is not None:
            self.known = np.zeros(1 << self.compiled.SLOTS_BITS, self.compiled.KNOWN)

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        """Read weights from a safetensors file: `weights` as 8-bit numbers with one `scale`, and a `bias`."""
        from safetensors.numpy import load_file

        found = load_file(path)
        return cls(found["weights"], float(found["scale"][0]), float(found["bias"][0]))

    def probability(self, text: str) -> float:
        """How likely the text is to be called offensive, from 0 to 1."""
        return float(self.probabilities([text])[0])

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The same for many texts, `[n]`."""
        if self.compiled is None:
            highest = np.array([self._highest(text) for text in texts])
        else:
            sizes = (BUCKETS_BITS, LEAST_N, MOST_N, WINDOW, STRIDE)
            highest = self.compiled.highest(*chain(list(map(folded, texts))), self.weights, *sizes, self.known)
        found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(self.bias + self.scale * highest, -50, 50)))
        return found

    def _highest(self, text: str) -> float:
        """The highest score of a window: sum of its weights by the root of their number; -inf without words."""
        found = features(text)
        if not found:
            return -math.inf
        sums = np.array([self.weights[one].sum(dtype=np.float64) for one in found])
        counts = np.array([len(one) for one in found], np.float64)
        total, number = (np.concatenate([[0.0], np.cumsum(one)]) for one in (sums, counts))
        starts = np.arange(0, max(len(sums) - STRIDE, 1), STRIDE)
        ends = np.minimum(starts + WINDOW, len(sums))
        return float(((total[ends] - total[starts]) / np.sqrt(number[ends] - number[starts])).max())


def weights_file() -> Path:
    """The weights that come with the package."""
    return Path(str(files("luthier.data") / "profanity.safetensors"))


@cache
def classifier() -> Classifier:
    """The classifier that comes with the package."""
    return Classifier.load(weights_file())


class Profanity(RowStep[Settings]):
    """Rows with swearing or slurs."""

    name = "profanity"

    def __init__(self, settings: Settings, around: Any) -> None:
        super().__init__(settings, around)
        self.asked = _Hub(settings, around.home) if settings.classifier else None

    def fingerprint(self) -> str:
        """The settings and the other classifier's files."""
        return digest([super().fingerprint(), self.asked.identity() if self.asked else None])

    def look(self, row: Row) -> Finding:
        """The probability, when it reaches the threshold."""
        return self.look_at([row])[0]

    def look_at(self, rows: Sequence[Row]) -> list[Finding]:
        """The same for many rows."""
        texts = [row.text for row in rows]
        found = map(self.asked.probability, texts) if self.asked else classifier().probabilities(texts).tolist()
        return list(map(self._finding, found))

    def _finding(self, found: float) -> Finding:
        if found < self.settings.threshold:
            return PASS
        return verdict(self.settings.action, "profanity", f"probability {found:.2f}", found, risk=found)


class _Hub:
    """Another classifier, by name. torch is loaded with the first row."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self.settings, self.home = settings, home
        self._loaded: Any = None

    def identity(self) -> str:
        from luthier.models.encoder import find_encoder

        return find_encoder(str(self.settings.classifier), self.home, "data.curate.profanity.classifier").identity()

    def probability(self, text: str) -> float:
        if self._loaded is None:
            from luthier.models.encoder import TextClassifier, find_encoder

            base = find_encoder(str(self.settings.classifier), self.home, "data.curate.profanity.classifier")
            self._loaded = TextClassifier(base, self.settings.labels)
        return float(self._loaded.probability(text))
