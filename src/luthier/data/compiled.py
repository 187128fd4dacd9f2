"""The arithmetic of `shingles.py` and `minhash.py` as machine code (numba), for many rows.

Every function here has a plain one there, and a test holds them equal to the last bit.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from luthier.data.minhash import BITS, FACTORS, MINIMA, NIBBLES, SUMMANDS, WORDS_OF_BITS
from luthier.data.shingles import (
    BASE,
    FEW_WORDS,
    LETTERS_IN_A_SHINGLE,
    LETTERS_ONLY,
    MIX_1,
    MIX_2,
    SIGNS,
    WORDS_IN_A_SHINGLE,
)

_ONE = np.uint64(1)
_S3, _S7, _S27, _S30, _S31, _S32 = map(np.uint64, (3, 7, 27, 30, 31, 32))
_MOST = np.uint32(2**32 - 1)


def _table() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[128:] = 1
    table[[ord(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789_"]] = 1
    table[[ord(c) for c in SIGNS]] = 2
    return table


_KINDS = _table()


@njit(cache=True, inline="always")
def mix(h: Any) -> Any:
    """The finaliser of `shingles.mix`, for use in compiled code."""
    h = (h ^ (h >> _S30)) * MIX_1
    h = (h ^ (h >> _S27)) * MIX_2
    return h ^ (h >> _S31)


@njit(cache=True)
def _letter_shingles(data, words, ends, count, out):
    """Shingles of letters. The text is written out once as words with a blank around each."""
    room = 1
    for w in range(count):
        room += ends[w] - words[w] + 1
    joined = np.empty(room, np.uint8)
    starts = np.empty(room + 1, np.int64)
    joined[0] = 32
    n = 1
    for w in range(count):
        for i in range(words[w], ends[w]):
            joined[n] = data[i]
            n += 1
        joined[n] = 32
        n += 1
    letters = 0
    for i in range(n):
        if joined[i] & 0xC0 != 0x80:
            starts[letters] = i
            letters += 1
    starts[letters] = n
    width = min(LETTERS_IN_A_SHINGLE, letters)
    for k in range(letters - width + 1):
        h = np.uint64(0)
        power = _ONE
        for i in range(starts[k], starts[k + width]):
            h += (np.uint64(joined[i]) + _ONE) * power
            power *= BASE
        out[k] = mix(mix(h) + LETTERS_ONLY)
    return letters - width + 1


@njit(cache=True)
def _words(data, out, begins, ends):
    """Write the hashes of the words of one folded text to `out`, and where the first twenty stand; return how many."""
    size = len(data)
    count = 0
    i = 0
    while i < size:
        kind = _KINDS[data[i]]
        if kind == 0:
            i += 1
            continue
        begin = i
        h = np.uint64(data[i]) + _ONE
        i += 1
        if kind == 1:
            power = BASE
            while i < size and _KINDS[data[i]] == 1:
                h += (np.uint64(data[i]) + _ONE) * power
                power *= BASE
                i += 1
        if count < FEW_WORDS:
            begins[count] = begin
            ends[count] = i
        out[count] = mix(h)
        count += 1
    return count


@njit(cache=True, nogil=True)
def words(data: Any, out: Any) -> Any:
    """The hashes of the words of one folded text, into `out`. Returns their number."""
    spare = np.empty(FEW_WORDS, np.int64)
    return _words(data, out, spare, spare)


@njit(cache=True)
def _shingles(data, out):
    """Write the shingles of one folded text to `out` and return how many there are."""
    begins = np.empty(FEW_WORDS, np.int64)
    ends = np.empty(FEW_WORDS, np.int64)
    count = _words(data, out, begins, ends)
    if count == 0:
        return 0
    if count < FEW_WORDS:
        return _letter_shingles(data, begins, ends, count, out)
    last = count - WORDS_IN_A_SHINGLE + 1
    for k in range(last):
        total = np.uint64(0)
        for j in range(WORDS_IN_A_SHINGLE):
            total = total * BASE + out[k + j]
        out[k] = mix(total)
    return last


@njit(cache=True, nogil=True)
def shingles(data: Any, out: Any) -> Any:
    """The shingles of one folded text, into `out`, which has room for `len(data) + 2`. Returns their number."""
    return _shingles(data, out)


@njit(cache=True, nogil=True)
def sift(data: Any, starts: Any, places: Any, mask: Any, threshold: Any, found: Any) -> None:
    """Which folded texts have the share `threshold` of their different shingles among the bits of `places`: `found`."""
    longest = 0
    for k in range(len(found)):
        longest = max(longest, starts[k + 1] - starts[k])
    scratch = np.empty(longest + 2, np.uint64)
    for k in range(len(found)):
        count = _shingles(data[starts[k] : starts[k + 1]], scratch)
        passed = np.int64(0)
        for i in range(count):
            at = scratch[i] & mask
            passed += np.int64((places[at >> _S3] >> (at & _S7)) & _ONE)
        if passed == 0:
            continue
        mine = np.sort(scratch[:count])
        passed = np.int64(0)
        size = 0
        for i in range(count):
            if i > 0 and mine[i] == mine[i - 1]:
                continue
            at = mine[i] & mask
            passed += np.int64((places[at >> _S3] >> (at & _S7)) & _ONE)
            size += 1
        found[k] = passed >= threshold * size


@njit(cache=True)
def _minima(values, count, least):
    for p in range(MINIMA):
        least[p] = _MOST
    whole = count - count % 4
    for k in range(0, whole, 4):
        x0 = np.uint32(values[k] >> _S32)
        x1 = np.uint32(values[k + 1] >> _S32)
        x2 = np.uint32(values[k + 2] >> _S32)
        x3 = np.uint32(values[k + 3] >> _S32)
        for p in range(MINIMA):
            a = FACTORS[p]
            b = SUMMANDS[p]
            y0 = np.uint32(a * x0 + b)
            y1 = np.uint32(a * x1 + b)
            y2 = np.uint32(a * x2 + b)
            y3 = np.uint32(a * x3 + b)
            least[p] = min(least[p], min(min(y0, y1), min(y2, y3)))
    for k in range(whole, count):
        x0 = np.uint32(values[k] >> _S32)
        for p in range(MINIMA):
            least[p] = min(least[p], np.uint32(FACTORS[p] * x0 + SUMMANDS[p]))


@njit(cache=True)
def _signature(data, scratch, least, keys, bits):
    """The signature of one folded text, into `keys` and `bits`. Returns the number of its shingles."""
    count = _shingles(data, scratch)
    if count == 0:
        return 0
    _minima(scratch, count, least)
    bands = len(keys)
    rows = MINIMA // bands
    for band in range(bands):
        key = np.uint64(0)
        for r in range(rows):
            key = mix((key + np.uint64(least[band * rows + r])) * BASE)
        keys[band] = np.uint32(key >> _S32)
    for word in range(WORDS_OF_BITS):
        packed = np.uint64(0)
        for i in range(64 // BITS):
            packed |= np.uint64(least[word * (64 // BITS) + i] & np.uint32(2**BITS - 1)) << np.uint64(BITS * i)
        bits[word] = packed
    return count


@njit(cache=True, nogil=True)
def signatures(data: Any, starts: Any, keys: Any, bits: Any, counts: Any) -> None:
    """The signatures of folded texts that stand one behind the other: keys, bits and the number of shingles of each."""
    longest = 0
    for k in range(len(counts)):
        longest = max(longest, starts[k + 1] - starts[k])
    scratch = np.empty(longest + 2, np.uint64)
    least = np.empty(MINIMA, np.uint32)
    for k in range(len(counts)):
        counts[k] = _signature(data[starts[k] : starts[k + 1]], scratch, least, keys[k], bits[k])


@njit(cache=True, inline="always")
def _estimate(bits, i, j):
    """The Jaccard index that the lowest bits of two signatures tell of."""
    different = np.int64(0)
    for w in range(WORDS_OF_BITS):
        x = bits[i, w] ^ bits[j, w]
        x |= x >> np.uint64(1)
        x |= x >> np.uint64(2)
        x &= NIBBLES
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        different += np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
    agree = 1.0 - different / MINIMA
    chance = 2.0**-BITS
    return (agree - chance) / (1.0 - chance)


@njit(cache=True, inline="always")
def _jaccard(values, starts, i, j):
    """The exact Jaccard index of two sorted sets."""
    a, a_end, b, b_end = starts[i], starts[i + 1], starts[j], starts[j + 1]
    size = a_end - a + b_end - b
    common = 0
    while a < a_end and b < b_end:
        x, y = values[a], values[b]
        common += x == y
        a += x <= y
        b += y <= x
    return common / max(size - common, 1)


@njit(cache=True, nogil=True)
def close(order: Any, first: Any, last: Any, bits: Any, least: Any) -> Any:
    """Which rows have at least one other in a band whose signature is close enough: `[n]`."""
    bands, n = order.shape
    found = np.zeros(n, np.bool_)
    for i in range(n):
        for band in range(bands):
            if found[i]:
                break
            for k in range(first[band, i], last[band, i]):
                j = order[band, k]
                if j != i and _estimate(bits, i, j) >= least:
                    found[i] = True
                    found[j] = True
                    break
    return found


@njit(cache=True, nogil=True)
def stars(
    order: Any, first: Any, last: Any, bits: Any, values: Any, starts: Any, rank: Any, threshold: Any, least: Any
) -> Any:
    """Of each row the one that stays in its place, itself or a better one, and how much alike they are: `[n]` each."""
    bands, n = order.shape
    centre = np.full(n, -1, np.int64)
    alike = np.ones(n, np.float64)
    seen = np.full(n, -1, np.int64)
    for i in rank:
        if centre[i] >= 0:
            continue
        centre[i] = i
        for band in range(bands):
            for k in range(first[band, i], last[band, i]):
                j = order[band, k]
                if centre[j] >= 0 or seen[j] == i:
                    continue
                seen[j] = i
                if _estimate(bits, i, j) < least:
                    continue
                found = _jaccard(values, starts, i, j)
                if found >= threshold:
                    centre[j] = i
                    alike[j] = found
    return centre, alike


@njit(cache=True, inline="always")
def _top(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def components(
    order: Any, first: Any, last: Any, bits: Any, values: Any, starts: Any, threshold: Any, least: Any
) -> Any:
    """Of each row the first one that a chain of close pairs connects it with: `[n]`."""
    bands, n = order.shape
    parent = np.arange(n)
    seen = np.full(n, -1, np.int64)
    for i in range(n):
        for band in range(bands):
            for k in range(first[band, i], last[band, i]):
                j = order[band, k]
                if j <= i or seen[j] == i:
                    continue
                seen[j] = i
                a, b = _top(parent, i), _top(parent, j)
                if a == b or _estimate(bits, i, j) < least:
                    continue
                if _jaccard(values, starts, i, j) >= threshold:
                    parent[max(a, b)] = min(a, b)
    for i in range(n):
        parent[i] = _top(parent, i)
    return parent


@njit(cache=True, nogil=True)
def accumulate(terms: Any, weights: Any, starts: Any, items: Any, values: Any, total: Any) -> None:
    """Add to `total[items]` the products of weights and values, term by term."""
    for k in range(len(terms)):
        for at in range(starts[terms[k]], starts[terms[k] + 1]):
            total[items[at]] += weights[k] * values[at]
