"""Stems and numbers of texts, and which items they are near to, as machine code (numba).

What `Paraphrases` in `overlap.py` does with words and dictionaries happens here with bytes and hashes, for texts of
ASCII letters; a test holds the two equal. Sums are made in the order in which terms first stand in a window, so that
they are the same to the last bit.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from luthier.data.chained import chain
from luthier.data.overlap import NUMBERS, STEM, STRIDE, WINDOW

_FACTOR, _MIX, _S32 = np.uint64(0x100000001B3), np.uint64(0xFF51AFD7ED558CCD), np.uint64(32)
_START = np.array([0xCBF29CE484222325, 0x84222325CBF29CE4], np.uint64)
"""Where hashes of stems begin, and those of numbers."""
_BLANK, _LETTER, _DIGIT, _POINT = 1, 2, 3, 4


def _kinds() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = _BLANK
    table[97:123] = _LETTER
    table[48:58] = _DIGIT
    table[[44, 46]] = _POINT
    return table


_KINDS = _kinds()


def hashed(term: str, kind: int) -> int:
    """The hash of a term: 0 a stem, 1 a number."""
    h = int(_START[kind])
    for byte in term.encode():
        h = (h ^ byte) * int(_FACTOR) & 0xFFFFFFFFFFFFFFFF
    h = (h ^ h >> 32) * int(_MIX) & 0xFFFFFFFFFFFFFFFF
    return h ^ h >> 32


class Known(NamedTuple):
    """Terms of items by their hash, and items by term: what compiled code is handed."""

    slots: NDArray[np.uint64]
    """Hashes in a table of twice their number or more, 0 where there is none."""
    terms: NDArray[np.int64]
    """The term in each slot."""
    idf: NDArray[np.float64]
    starts: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float64]
    rare: float
    """What a term of no item has in place of `idf`."""
    words: NDArray[np.uint64]
    """Hashes, as of stems, of words that are numbers, in order."""
    numbers: NDArray[np.uint64]
    """The hashes of these numbers."""


def known(terms: Sequence[tuple[int, float, NDArray[np.int64], NDArray[np.float64]]], rare: float) -> Known:
    """Lay terms out: of each its hash, its inverse document frequency, its items and its weights there."""
    size = 1 << max(2 * len(terms) + 1, 2).bit_length()
    slots, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for number, (mark, *_) in enumerate(terms):
        at = mark & (size - 1)
        while slots[at]:
            at = (at + 1) & (size - 1)
        slots[at], places[at] = mark, number
    lengths = [len(items) for _, _, items, _ in terms]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    spelt = sorted((_whole(word), hashed(number, 1)) for word, number in NUMBERS.items())
    return Known(
        slots,
        places,
        np.array([idf for _, idf, _, _ in terms], np.float64),
        starts,
        np.concatenate([np.zeros(0, np.int64), *(items for _, _, items, _ in terms)]),
        np.concatenate([np.zeros(0), *(weights for _, _, _, weights in terms)]),
        rare,
        np.array([word for word, _ in spelt], np.uint64),
        np.array([number for _, number in spelt], np.uint64),
    )


def _whole(word: str) -> int:
    return hashed(word, 0)


@njit(cache=True, inline="always")
def _finish(h):
    h = (h ^ (h >> _S32)) * _MIX
    return h ^ (h >> _S32)


@njit(cache=True)
def _term(data, i, end, words, numbers):
    """The term that begins at `i`: its hash, its kind, and where it ends."""
    if _KINDS[data[i]] == _DIGIT:
        h = _START[1]
        while i < end:
            kind = _KINDS[data[i]]
            if kind == _POINT:
                if i + 1 >= end or _KINDS[data[i + 1]] != _DIGIT:
                    break
            elif kind != _DIGIT:
                break
            if data[i] != 44:  # a comma groups digits
                h = (h ^ np.uint64(data[i])) * _FACTOR
            i += 1
        return _finish(h), 1, i
    h = _START[0]
    stem = h
    size = 0
    while i < end and _KINDS[data[i]] == _LETTER:
        h = (h ^ np.uint64(data[i])) * _FACTOR
        size += 1
        if size <= STEM:
            stem = h
        i += 1
    whole = _finish(h)
    k = np.searchsorted(words, whole)
    if k < len(words) and words[k] == whole:
        return numbers[k], 1, i
    return _finish(stem), 0, i


@njit(cache=True)
def _tokens(data, begin, end, words, numbers, marks, kinds, firsts):
    """All terms of a text, and of each word the number of its first term. Returns how many words there are."""
    count = 0
    terms = 0
    i = begin
    while i < end:
        if _KINDS[data[i]] == _BLANK:
            i += 1
            continue
        firsts[count] = terms
        count += 1
        while i < end and _KINDS[data[i]] != _BLANK:
            kind = _KINDS[data[i]]
            if kind in (_LETTER, _DIGIT):
                marks[terms], kinds[terms], i = _term(data, i, end, words, numbers)
                terms += 1
            else:
                i += 1
    firsts[count] = terms
    return count


@njit(cache=True)
def _score(marks, kinds, first, last, index, scratch, total):
    """Add the similarity of the terms [first, last) to every item to `total`."""
    slots, terms, idf, starts, items, values, rare, _, _ = index
    seen, place, order, counts = scratch
    mask = np.uint64(len(seen) - 1)
    wide = np.uint64(len(slots) - 1)
    for kind in range(2):
        n = 0
        for t in range(first, last):
            if kinds[t] != kind:
                continue
            at = marks[t] & mask
            while place[at] >= 0 and seen[at] != marks[t]:
                at = (at + np.uint64(1)) & mask
            if place[at] < 0:
                seen[at] = marks[t]
                place[at] = n
                order[n] = at
                counts[n] = 0
                n += 1
            counts[place[at]] += 1
        size = 0.0
        for k in range(n):
            mark = seen[order[k]]
            at = mark & wide
            while slots[at] != 0 and slots[at] != mark:
                at = (at + np.uint64(1)) & wide
            place[order[k]] = terms[at] if slots[at] == mark else np.int64(-1)
            f = (1.0 + math.log(counts[k])) * (idf[terms[at]] if slots[at] == mark else rare)
            size += f * f
        size = math.sqrt(size)
        for k in range(n):
            term = place[order[k]]
            place[order[k]] = -1
            if term >= 0:
                f = (1.0 + math.log(counts[k])) * idf[term] / size
                for p in range(starts[term], starts[term + 1]):
                    total[items[p]] += f * values[p]


@njit(cache=True)
def _scratch(terms):
    """Room to count so many different terms: their hashes, which of them they are, where they stand, how many each."""
    room = 64
    while room < 2 * terms:
        room *= 2
    return np.empty(room, np.uint64), np.full(room, -1, np.int64), np.empty(room, np.int64), np.empty(room)


@njit(cache=True, nogil=True)
def _nearest(data, starts, firsts, index, thresholds, rows, items, scores):
    """The items each row is near to, a row being the texts from `firsts[k]` on. Returns how many were found."""
    longest = 0
    for k in range(len(starts) - 1):
        longest = max(longest, starts[k + 1] - starts[k])
    marks = np.empty(longest + 1, np.uint64)
    kinds = np.empty(longest + 1, np.int8)
    words = np.empty(longest + 2, np.int64)
    scratch = _scratch(WINDOW)
    n = len(thresholds)
    best = np.empty(n)
    total = np.empty(n)
    found = 0
    for row in range(len(firsts) - 1):
        best[:] = 0.0
        for text in range(firsts[row], firsts[row + 1]):
            count = _tokens(data, starts[text], starts[text + 1], index[7], index[8], marks, kinds, words)
            whole = count <= WINDOW + STRIDE
            most = 0
            for at in range(count if not whole else 1):
                most = max(most, words[count if whole else min(at + WINDOW, count)] - words[at])
            if 2 * most > len(scratch[0]):
                scratch = _scratch(most)
            at = 0
            while at == 0 or (not whole and at < count - STRIDE):
                last = count if whole else min(at + WINDOW, count)
                total[:] = 0.0
                _score(marks, kinds, words[at], words[last], index, scratch, total)
                for i in range(n):
                    best[i] = max(best[i], total[i])
                at += STRIDE
        for i in range(n):
            if best[i] >= thresholds[i]:
                if found < len(rows):
                    rows[found] = row
                    items[found] = i
                    scores[found] = best[i]
                found += 1
    return found


def nearest(
    rows: Sequence[Sequence[str]], index: Known, thresholds: NDArray[np.float64]
) -> Iterable[tuple[int, int, float]]:
    """Row, item and similarity of all items that rows, each some texts of ASCII, are near to."""
    firsts = np.concatenate([[0], np.cumsum([len(texts) for texts in rows])]).astype(np.int64)
    data, starts = chain([text.lower().encode() for texts in rows for text in texts])
    room = 1024
    while True:
        row, item, score = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room)
        count = _nearest(data, starts, firsts, tuple(index), thresholds, row, item, score)
        if count <= room:
            return zip(row[:count].tolist(), item[:count].tolist(), score[:count].tolist(), strict=True)
        room = count
