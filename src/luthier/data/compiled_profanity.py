"""The score of `profanity.py` as machine code (numba), held equal by a test.

What the letters of a word weigh depends on the word alone, so it is remembered by the word's hash from text to text.
"""

from typing import Any

import numpy as np
from numba import njit

from luthier.data.compiled import mix
from luthier.data.shingles import BASE, SALT_LETTERS, SALT_PAIR

_ONE = np.uint64(1)
SLOTS_BITS = 15
_SLOT = np.uint64(64 - SLOTS_BITS)
_LETTER = np.zeros(256, np.bool_)
_LETTER[[ord(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789_"]] = True
_LETTER[128:] = True
KNOWN = np.dtype([("word", np.uint64), ("weight", np.int32), ("features", np.int32)])
"""What is remembered of a word: its hash, the sum of its weight and those of its letters, and how many these are."""


@njit(cache=True)
def _letters(data, a, b, weights, shift, least, most):
    """Weight of the letters of a word, `least` to `most` at a time, with a blank on both sides; and how many."""
    total = 0
    count = 0
    for i in range(a - 1, b + 2 - least):
        part = np.uint64(0)
        for k in range(i, min(i + most, b + 1)):
            c = data[k] if a <= k < b else np.uint8(32)
            part = (part + np.uint64(c) + _ONE) * BASE
            if k - i >= least - 1:
                total += weights[mix(mix(part) + SALT_LETTERS) >> shift]
                count += 1
    return total, count


@njit(cache=True)
def _sums(data, weights, shift, least, most, known, sums, counts):
    """Weights of the words of a text, added up, and how many these are; returns the number of the words."""
    size = len(data)
    sums[0] = counts[0] = 0
    before = np.uint64(0)
    words = i = 0
    while i < size:
        if not _LETTER[data[i]]:
            i += 1
            continue
        a = i
        h = np.uint64(0)
        while i < size and _LETTER[data[i]]:
            h = (h + np.uint64(data[i]) + _ONE) * BASE
            i += 1
        h = mix(h)
        one = known[h >> _SLOT]
        if one["word"] != h:
            total, count = _letters(data, a, i, weights, shift, least, most)
            one["weight"] = total + weights[h >> shift]
            one["features"] = count + 1
            one["word"] = h
        sums[words + 1] = sums[words] + one["weight"] + weights[mix(h * BASE + before + SALT_PAIR) >> shift]
        counts[words + 1] = counts[words] + 1 + one["features"]
        words += 1
        before = h
    return words


@njit(cache=True, nogil=True)
def _highest(data, starts, weights, shift, least, most, window, stride, known, out):
    longest = 0
    for k in range(len(out)):
        longest = max(longest, starts[k + 1] - starts[k])
    sums, counts = np.empty(longest // 2 + 2, np.int64), np.empty(longest // 2 + 2, np.int64)
    for k in range(len(out)):
        words = _sums(data[starts[k] : starts[k + 1]], weights, shift, least, most, known, sums, counts)
        best = -np.inf
        start = 0
        while words and (start == 0 or start < words - stride):
            end = min(start + window, words)
            best = max(best, (sums[end] - sums[start]) / np.sqrt(np.float64(counts[end] - counts[start])))
            start += stride
        out[k] = best


def highest(
    data: Any, starts: Any, weights: Any, bits: int, least: int, most: int, window: int, stride: int, known: Any
) -> Any:
    """The highest score of a window of words of each text, `[n]`: `Classifier._highest` for texts in a row."""
    out = np.empty(len(starts) - 1)
    _highest(data, starts, weights, np.uint64(64 - bits), least, most, window, stride, known, out)
    return out
