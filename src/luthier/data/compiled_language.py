"""The scores of py3langid as machine code (numba): some ten times as fast, held equal by a test."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

PARTS = 512
"""Weights are whole numbers of these parts: half-precision numbers from 2 to 64 are, so 16 bits hold each exactly."""


LANES = 16
"""Texts that go through the automaton side by side: each step waits for memory, and they wait together."""


@njit(cache=True, nogil=True)
def _walk(data, starts, step, rows, path):
    """The state of the automaton behind each byte of texts that stand one behind the other."""
    states = np.empty(LANES, np.int64)
    for first in range(0, len(starts) - 1, LANES):
        last = min(first + LANES, len(starts) - 1)
        states[:] = 0
        longest = 0
        for k in range(first, last):
            longest = max(longest, starts[k + 1] - starts[k])
        for t in range(longest):
            for k in range(first, last):
                i = starts[k] + t
                if i < starts[k + 1]:
                    state = step[rows[states[k - first]] + data[i]]
                    states[k - first] = state
                    path[i] = state


@njit(cache=True, nogil=True)
def _add(path, features, table, seen, found, once, total):
    """Add log(1 + n) times its weights, in parts of 512, for each feature that stands n times on a text's path.

    Most stand there once, and those are added up as whole numbers in `once`.
    """
    distinct = 0
    for state in path:
        f = features[state]
        if f >= 0:
            if seen[f] == 0:
                found[distinct] = f
                distinct += 1
            seen[f] += 1
    once[:] = 0
    for k in range(distinct):
        f = found[k]
        n = seen[f]
        seen[f] = 0
        weights = table[f]
        if n == 1:
            for j in range(len(once)):
                once[j] += weights[j]
        else:
            times = np.float32(math.log(1.0 + n))
            for j in range(len(total)):
                total[j] += times * np.float32(weights[j])
    for j in range(len(total)):
        total[j] += np.float32(math.log(2.0)) * np.float32(once[j])
    return distinct


@njit(cache=True, nogil=True)
def _likely(scores, prior, size, any_found):
    """The scores, in place, as probabilities that add up to one."""
    scale = np.float32(1.0 / math.sqrt(max(size, 1)))
    for j in range(len(scores)):
        scores[j] = (scores[j] / np.float32(PARTS) + (prior[j] if any_found else np.float32(0))) * scale
    most = scores.max()
    for j in range(len(scores)):
        scores[j] = math.exp(scores[j] - most)
    scores /= scores.sum()


@njit(cache=True, nogil=True)
def _all(data, starts, step, rows, features, table, seen, prior, scores):
    """The probabilities of all labels for each text."""
    path = np.empty(len(data), np.int32)
    found = np.empty(len(data), np.int32)
    once = np.empty(len(prior), np.int32)
    _walk(data, starts, step, rows, path)
    for k in range(len(starts) - 1):
        a, b = starts[k], starts[k + 1]
        any_found = _add(path[a:b], features, table, seen, found, once, scores[k]) > 0
        _likely(scores[k], prior, b - a, any_found)


class Scorer:
    """What `rank` of an identifier works out, from its tables.

    Raises:
        AttributeError: this version of py3langid keeps them otherwise.
    """

    def __init__(self, identifier: Any) -> None:
        self.step = np.frombuffer(identifier.tk_nextmove, identifier.tk_nextmove.typecode)
        self.rows = np.asarray(identifier.tk_row, np.int32) << 8
        self.features = np.asarray(identifier.tk_output, np.int32)
        parts = identifier.nb_ptc.astype(np.float32) * PARTS
        self.table = parts.astype(np.int16)
        if not np.array_equal(self.table, parts):
            raise AttributeError("weights of another precision")
        self.prior = np.asarray(identifier.nb_pc, np.float32)
        self.labels, self.twice = identifier.labels, identifier._alias_pairs
        self.once = np.delete(np.arange(len(self.prior)), [again for _, again in self.twice])
        self.seen = np.zeros(len(self.table), np.int32)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The probability of each label, `[texts, labels]`."""
        parts = [_bytes(text) for text in texts]
        starts = np.cumsum([0, *map(len, parts)])
        data = np.frombuffer(b"".join(parts), np.uint8)
        scores = np.zeros((len(texts), len(self.prior)), np.float32)
        _all(data, starts, self.step, self.rows, self.features, self.table, self.seen, self.prior, scores)
        for first, again in self.twice:
            scores[:, first] += scores[:, again]
        kept: NDArray[np.float32] = scores[:, self.once]
        return kept


def _bytes(text: str) -> bytes:
    if text.isupper():
        text = text.lower()
    return text.encode() if text.isascii() else unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
