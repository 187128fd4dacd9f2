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
KNOWN = np.dtype([("word", np.uint64), ("weight", np.float64), ("features", np.int64)])


@njit(cache=True)
def _letters(data, a, b, weights, shift, least, most, known):
    """Weight of the letters of a word, `least` to `most` at a time, with a blank on both sides; and how many."""
    total = 0.0
    count = 0
    for i in range(a - 1, b + 2 - least):
        part = np.uint64(0)
        for k in range(i, min(i + most, b + 1)):
            c = data[k] if a <= k < b else np.uint8(32)
            part = (part + np.uint64(c) + _ONE) * BASE
            if k - i >= least - 1:
                total += weights[mix(mix(part) + SALT_LETTERS) >> shift]
                count += 1
    known["weight"] = total
    known["features"] = count


@njit(cache=True, nogil=True)
def highest(data: Any, weights: Any, bits: Any, least: Any, most: Any, window: Any, stride: Any, known: Any) -> Any:
    """The highest score of a window of words: sum of its weights by the root of how many they are; 0 without words."""
    shift = np.uint64(64 - bits)
    size = len(data)
    sums, counts = np.empty(size // 2 + 2), np.empty(size // 2 + 2)
    sums[0] = counts[0] = 0.0
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
            _letters(data, a, i, weights, shift, least, most, one)
            one["word"] = h
        pair = weights[mix(h * BASE + before + SALT_PAIR) >> shift]
        sums[words + 1] = sums[words] + (np.float64(weights[h >> shift]) + pair + one["weight"])
        counts[words + 1] = counts[words] + 2 + one["features"]
        words += 1
        before = h
    best = -np.inf
    start = 0
    while words and (start == 0 or start < words - stride):
        end = min(start + window, words)
        best = max(best, (sums[end] - sums[start]) / np.sqrt(counts[end] - counts[start]))
        start += stride
    return best
