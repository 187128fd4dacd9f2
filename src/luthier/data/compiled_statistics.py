"""The counts of `statistics.py` as machine code (numba): some forty times as fast, held equal by a test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from luthier.data.chained import chained
from luthier.data.compiled import mix
from luthier.data.shingles import BASE
from luthier.data.statistics import BULLETS, DUPLICATE, ENDINGS, SHORT_LINE, STOP_WORDS, TOP, Statistics

_SPACE, _LETTER, _BEYOND, _REST, _SIGN = 1, 2, 4, 8, 16


def _kinds() -> Any:
    table = np.full(256, _REST, np.uint8)
    table[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = _SPACE
    table[65:91] = table[97:123] = _LETTER
    table[128:] = _BEYOND
    table[[ord("#"), ord(".")]] = _SIGN
    return table


_KIND = _kinds()
_SPACES = _KIND == _SPACE
_LOWER = np.arange(256, dtype=np.int64)
_LOWER[65:91] += 32
_STOPS = np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS], np.int64)
_STARTS = np.zeros(256, np.bool_)
_STARTS[[ord(word[0]) for word in STOP_WORDS] + [ord(word[0].upper()) for word in STOP_WORDS]] = True
_INTEGERS = 12
_TOP_N, _MOST_N = max(TOP), max(DUPLICATE)


def _codes(signs: str) -> Any:
    """Signs as their UTF-8 bytes in one number, the last byte lowest."""
    return np.array([int.from_bytes(sign.encode(), "big") for sign in signs], np.int64)


_BULLETS, _ENDINGS = _codes(BULLETS), _codes(ENDINGS)
_ELLIPSIS = int(_codes("\u2026")[0])


@njit(cache=True)
def _hash(data, a, b):
    h = np.uint64(b - a)
    for i in range(a, b):
        h = (h ^ np.uint64(data[i])) * BASE
    return mix(h)


@njit(cache=True)
def _lowered(data, a, b):
    """At most four letters in lower case, as one number."""
    code = np.int64(0)
    for i in range(a, b):
        code = code * 256 + _LOWER[data[i]]
    return code


@njit(cache=True)
def _code_at(data, i, end):
    """The sign that begins at `i`, as its bytes in one number."""
    code = np.int64(data[i])
    i += 1
    while i < end and data[i] & 0xC0 == 0x80:
        code = code * 256 + data[i]
        i += 1
    return code


@njit(cache=True)
def _code_before(data, begin, end):
    """The last sign before `end`."""
    i = end - 1
    while i > begin and data[i] & 0xC0 == 0x80:
        i -= 1
    return _code_at(data, i, end)


@njit(cache=True)
def _is_one_of(code, codes):
    found = False
    for one in codes:
        found |= one == code
    return found


@njit(cache=True)
def _length(data, a, b):
    """Letters, not bytes."""
    n = 0
    for i in range(a, b):
        n += data[i] & 0xC0 != 0x80
    return n


@njit(cache=True)
def _letters(data, a, b):
    """Letters of a word that is not ASCII, and whether it is more than digits and signs."""
    letter = False
    for i in range(a, b):
        c = data[i]
        if c < 128:
            letter |= _KIND[c] == _LETTER
        elif c & 0xC0 != 0x80:
            letter |= not (c == 0xE2 and i + 1 < b and data[i + 1] < 0xB0)
    return _length(data, a, b), letter


@njit(cache=True)
def _signs(data, i, end, numbers):
    """Number signs and ellipses of a word."""
    while i < end:
        c = data[i]
        if c == 35:
            numbers[2] += 1
        elif c == 46 and i + 2 < end and data[i + 1] == 46 and data[i + 2] == 46:
            numbers[3] += 1
            i += 2
        elif c == 0xE2 and _code_at(data, i, end) == _ELLIPSIS:
            numbers[3] += 1
        i += 1


@njit(cache=True)
def _words(data, hashes, lengths, numbers):
    """Find the words; count those with a letter and the stop words."""
    size = len(data)
    stops = count = i = 0
    while i < size:
        k = _KIND[data[i]]
        if k == _SPACE:
            i += 1
            continue
        a = i
        h = np.uint64(0)
        kinds = 0
        while k != _SPACE:
            kinds |= k
            h = (h ^ np.uint64(data[i])) * BASE
            i += 1
            if i == size:
                break
            k = _KIND[data[i]]
        letters, letter = i - a, (kinds & _LETTER) != 0
        if kinds & _BEYOND:
            letters, letter = _letters(data, a, i)
        if kinds & (_SIGN | _BEYOND):
            _signs(data, a, i, numbers)
        hashes[count] = mix(h + np.uint64(i - a))
        lengths[count] = letters
        count += 1
        numbers[1] += letters
        numbers[4] += letter
        if 2 <= i - a <= 4 and _STARTS[data[a]]:
            code = _lowered(data, a, i)
            for s in range(len(_STOPS)):
                if _STOPS[s] == code:
                    stops |= 1 << s
    numbers[0] = count
    for s in range(len(_STOPS)):
        numbers[5] += (stops >> s) & 1
    return count


@njit(cache=True)
def _ink(data, a, b):
    """Letters that are no white space."""
    n = 0
    for i in range(a, b):
        n += data[i] & 0xC0 != 0x80 and not _SPACES[data[i]]
    return n


@njit(cache=True)
def _glance(data, a, b):
    """A hash of the length of a span and of sixteen letters in it, which tells most spans apart."""
    h = np.uint64(b - a)
    for i in range(a, min(a + 8, b)):
        h = (h ^ np.uint64(data[i])) * BASE
    for i in range(max(b - 8, a), b):
        h = (h ^ np.uint64(data[i])) * BASE
    return mix(h)


@njit(cache=True)
def _repeats(data, spans, count, shares, at):
    """Share of the spans that stood before, and their letters. Whole spans are hashed where a glance is not enough."""
    hashes = np.empty(count, np.uint64)
    for k in range(count):
        hashes[k] = _glance(data, spans[k, 0], spans[k, 1])
    alike = np.sort(hashes)
    if not (alike[1:] == alike[:-1]).any():
        return
    for k in range(count):
        hashes[k] = _hash(data, spans[k, 0], spans[k, 1])
    turn = np.argsort(hashes, kind="mergesort")
    again = letters = 0
    for k in range(1, count):
        if hashes[turn[k]] == hashes[turn[k - 1]]:
            again += 1
            letters += _ink(data, spans[turn[k], 0], spans[turn[k], 1])
    shares[at] = again / count
    shares[at + 1] = letters


@njit(cache=True)
def _line(data, a, b, numbers):
    numbers[6] += 1
    numbers[7] += _is_one_of(_code_at(data, a, b), _BULLETS)
    last = _code_before(data, a, b)
    dots = b - a >= 3 and data[b - 1] == 46 and data[b - 2] == 46 and data[b - 3] == 46
    numbers[8] += dots or last == _ELLIPSIS
    numbers[9] += _is_one_of(last, _ENDINGS)
    if b - a <= 4 * SHORT_LINE:
        numbers[10] += _length(data, a, b) <= SHORT_LINE


@njit(cache=True)
def _lines(data, numbers, shares):
    size = len(data)
    most = 1
    for c in data:
        most += c == 10
    lines = np.empty((most, 2), np.int64)
    paragraphs = np.empty((most, 2), np.int64)
    n_lines = n_paragraphs = 0
    inside = False
    i = 0
    while i <= size:
        a = i
        while i < size and data[i] != 10:
            i += 1
        b = i
        i += 1
        while a < b and _SPACES[data[a]]:
            a += 1
        while b > a and _SPACES[data[b - 1]]:
            b -= 1
        if a == b:
            inside = False
            continue
        _line(data, a, b, numbers)
        lines[n_lines] = (a, b)
        n_lines += 1
        if not inside:
            paragraphs[n_paragraphs, 0] = a
            n_paragraphs += 1
            inside = True
        paragraphs[n_paragraphs - 1, 1] = b
    numbers[11] = n_paragraphs
    _repeats(data, lines, n_lines, shares, 0)
    _repeats(data, paragraphs, n_paragraphs, shares, 2)


@njit(cache=True)
def _grams(hashes, lengths, count, shares):
    """Top and duplicate n-grams by an open table of hashes. Where no n words repeat, no n + 1 words do."""
    size = 16
    while size < 2 * count:
        size *= 2
    table = np.empty(size, np.uint64)
    counts = np.empty(size, np.int64)
    slots = np.empty(count, np.int64)
    gram = hashes[:count].copy()
    span = lengths[:count].copy()
    covered = np.empty(count, np.bool_)
    for n in range(2, _MOST_N + 1):
        last = count - n + 1
        if last < 2:
            return
        counts[:] = 0
        most = best = 0
        for i in range(last):
            gram[i] = gram[i] * BASE + hashes[i + n - 1]
            span[i] += lengths[i + n - 1]
            key = mix(gram[i])
            slot = np.int64(key & np.uint64(size - 1))
            while counts[slot] and table[slot] != key:
                slot = (slot + 1) & (size - 1)
            table[slot] = key
            counts[slot] += 1
            slots[i] = slot
            if counts[slot] > most or (counts[slot] == most and span[i] > best):
                most = counts[slot]
                best = span[i]
        if most < 2:
            return
        if n <= _TOP_N:
            shares[4 + n - 2] = most * best
        else:
            covered[:] = False
            for i in range(last):
                if counts[slots[i]] > 1:
                    covered[i : i + n] = True
            total = 0
            for i in range(count):
                total += lengths[i] * covered[i]
            shares[4 + n - 2] = total


@njit(cache=True)
def _count(data, hashes, lengths, numbers, shares):
    numbers[:] = 0
    shares[:] = 0
    count = _words(data, hashes, lengths, numbers)
    _lines(data, numbers, shares)
    _grams(hashes, lengths, count, shares)
    letters = max(numbers[1], 1)
    for k in range(1, len(shares)):
        if k != 2:  # shares of lines and of paragraphs are shares already
            shares[k] /= letters


@njit(cache=True, nogil=True)
def _count_all(data, starts, out):
    """The statistics of texts that stand one behind the other, `[n, 25]`."""
    longest = 0
    for k in range(len(out)):
        longest = max(longest, starts[k + 1] - starts[k])
    most = longest // 2 + 1
    hashes, lengths = np.empty(most, np.uint64), np.empty(most, np.int64)
    numbers = np.empty(_INTEGERS, np.int64)
    for k in range(len(out)):
        _count(data[starts[k] : starts[k + 1]], hashes, lengths, numbers, out[k, _INTEGERS:])
        for j in range(_INTEGERS):
            out[k, j] = numbers[j]


def count(texts: Sequence[str]) -> NDArray[np.float64]:
    """The statistics of cleaned texts, `[n, 25]`."""
    out = np.empty((len(texts), len(Statistics._fields)))
    _count_all(*chained(texts), out)
    return out
