"""Texts compared by their words: the nearest of many, runs of words in common. Used where a model would be too much."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

_WORD = re.compile(r"\w+", re.UNICODE)


def words(text: str) -> list[str]:
    """The words of a text, lower case."""
    return _WORD.findall(text.lower())


def grams(text: str, n: int) -> set[int]:
    """Hashes of all runs of n words."""
    found = words(text)
    return {hash(tuple(found[i : i + n])) for i in range(len(found) - n + 1)}


class Nearest:
    """Which of these texts is nearest to another: cosine of TF-IDF over words and pairs of words."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(_terms(text)) for text in texts]
        there: dict[str, list[tuple[int, float]]] = {}
        for row, found in enumerate(counts):
            for term, times in found.items():
                there.setdefault(term, []).append((row, 1 + math.log(times)))
        self._rows = len(texts)
        self._idf = {term: math.log((1 + len(texts)) / (1 + len(rows))) + 1 for term, rows in there.items()}
        norms = np.zeros(len(texts))
        self._where = {}
        for term, rows in there.items():
            at = np.array([row for row, _ in rows])
            weights = np.array([weight for _, weight in rows]) * self._idf[term]
            norms[at] += weights**2
            self._where[term] = (at, weights)
        self._norms = np.sqrt(np.maximum(norms, 1e-12))

    def find(self, text: str, most: int = 3) -> list[tuple[int, float]]:
        """The nearest texts as (number, cosine from 0 to 1), the nearest first; only those with a word in common."""
        found = Counter(_terms(text))
        weights = {t: (1 + math.log(n)) * self._idf[t] for t, n in found.items() if t in self._idf}
        if not weights or not self._rows:
            return []
        scores = np.zeros(self._rows)
        for term, weight in weights.items():
            at, theirs = self._where[term]
            scores[at] += weight * theirs
        own = math.sqrt(sum(w * w for w in weights.values()))
        scores /= self._norms * own
        best = np.argsort(-scores, kind="stable")[:most]
        return [(int(i), float(scores[i])) for i in best if scores[i] > 0]


def _terms(text: str) -> Iterator[str]:
    found = words(text)
    yield from found
    yield from (f"{a} {b}" for a, b in pairwise(found))
