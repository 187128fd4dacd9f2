"""The scores of py3langid as machine code (numba): some ten times as fast, held equal by a test."""

import math
import unicodedata
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


PARTS = 512
"""What a weight is a whole number of parts of: half-precision numbers from 2 on are, so that 16 bits hold each exactly."""


@njit(cache=True, nogil=True)
def _scores(data, step, rows, features, table, seen, found, once, total):
    """Add log(1 + n) times its weights for each feature that the automaton finds n times in a text, in parts of 512.

    Most features stand there once, and those are added up as whole numbers in `once`.
    """
    state = 0
    distinct = 0
    for c in data:
        state = step[rows[state] + c]
        f = features[state]
        if f >= 0:
            if seen[f] == 0:
                found[distinct] = f
                distinct += 1
            seen[f] += 1
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


class Scorer:
    """What `rank` of an identifier works out, from its tables.

    Raises:
        AttributeError: this version of py3langid keeps them otherwise.
    """

    def __init__(self, identifier: Any) -> None:
        self.step = np.frombuffer(identifier.tk_nextmove, identifier.tk_nextmove.typecode)
        self.rows = np.asarray(identifier.tk_row, np.int64) << 8
        self.features = np.asarray(identifier.tk_output, np.int32)
        parts = identifier.nb_ptc.astype(np.float32) * PARTS
        self.table = parts.astype(np.int16)
        if not np.array_equal(self.table, parts):
            raise AttributeError("weights of another precision")
        self.prior = np.asarray(identifier.nb_pc, np.float32)
        self.labels, self.twice = identifier.labels, identifier._alias_pairs
        self.once = np.delete(np.arange(len(self.prior)), [again for _, again in self.twice])
        self.seen = np.zeros(len(self.table), np.int32)

    def probabilities(self, text: str) -> NDArray[np.float32]:
        """The probability of each label, `[labels]`."""
        if text.isupper():
            text = text.lower()
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        scores, whole = np.zeros(len(self.prior), np.float32), np.zeros(len(self.prior), np.int32)
        found = np.empty(len(data), np.int32)
        any_found = _scores(data, self.step, self.rows, self.features, self.table, self.seen, found, whole, scores)
        _likely(scores, self.prior, len(data), any_found)
        for first, again in self.twice:
            scores[first] += scores[again]
        kept: NDArray[np.float32] = scores[self.once]
        return kept
