"""Texts as sets of shingles: five words in a row, or five letters where a text has under twenty words.

A shingle is a 64-bit hash. This is the plain form, in numpy; `compiled.py` has the same arithmetic as machine code, and
a test holds them equal, so that results never depend on what is installed.

Case, punctuation and form of writing do not count. The signs of arithmetic do: "2 + 3" is not "2 * 3".
"""

import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

WORDS_IN_A_SHINGLE, LETTERS_IN_A_SHINGLE, FEW_WORDS = 5, 5, 20
SIGNS = "%*+/<=>"
WRITTEN_TOGETHER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that put no blanks between words (Thai, Lao, Burmese, Khmer, kana, Han): each letter counts as a word."""
WORD = re.compile(rf"[{WRITTEN_TOGETHER}]|[^\W{WRITTEN_TOGETHER}]+|[{re.escape(SIGNS)}]")
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))

BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that its powers have inverses modulo 2^64."""
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SALT_PAIR, SALT_LETTERS = np.uint64(0x5851F42D4C957F2D), np.uint64(0x14057B7EF767814F)
"""Added to pairs of words and to letters, so that their hashes are not those of words."""
LETTERS_ONLY = np.uint64(0xD6E8FEB86659FD93)
"""Added to shingles of letters, so that none equals one of words."""


def fold(text: str) -> bytes:
    """The text in the form that is compared, in UTF-8: words are runs of letters, digits and `_`, or one sign."""
    if text.isascii():
        return text.lower().encode()
    composed = unicodedata.normalize("NFKC", text).translate(INVISIBLE).casefold()
    return " ".join(WORD.findall(composed)).encode("utf-8", "replace")


def mix(h: U64) -> U64:
    """Steele, Lea and Flood's finaliser (splitmix64): every bit of the input moves every bit of the output."""
    h = (h ^ (h >> np.uint64(30))) * MIX_1
    h = (h ^ (h >> np.uint64(27))) * MIX_2
    return h ^ (h >> np.uint64(31))


def _kinds(folded: NDArray[np.uint8]) -> NDArray[np.int8]:
    """For each byte: 1 a letter, 2 a sign, 0 between words."""
    table = np.zeros(256, np.int8)
    table[128:] = 1
    table[[ord(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789_"]] = 1
    table[[ord(c) for c in SIGNS]] = 2
    return table[folded]


def _spans(folded: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where words begin and end."""
    kind = np.concatenate([[0], _kinds(folded), [0]])
    before, after = kind[:-1], kind[1:]
    begins = np.flatnonzero((after == 2) | ((after == 1) & (before != 1)))
    ends = np.flatnonzero((before == 2) | ((before == 1) & (after != 1)))
    return begins, ends


def _powers(count: int, base: np.uint64) -> U64:
    return np.concatenate([np.ones(1, np.uint64), np.cumprod(np.full(count, base, np.uint64))])


def _hash_spans(data: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> U64:
    """Of each span, sum of (byte + 1) * BASE^i modulo 2^64, mixed. Differences of prefix sums, shifted back."""
    terms = (data.astype(np.uint64) + np.uint64(1)) * _powers(len(data), BASE)[:-1]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    return mix((sums[ends] - sums[begins]) * _powers(len(data), INVERSE)[begins])


def words(text: str) -> U64:
    """The hashes of the words of a text in order, `[n]`."""
    folded = np.frombuffer(fold(text), np.uint8)
    return _hash_spans(folded, *_spans(folded))


def grams(words: U64, n: int) -> U64:
    """The hashes of every n words in a row, `[len(words) - n + 1]`."""
    last = max(len(words) - n + 1, 0)
    total = np.zeros(last, np.uint64)
    for i in range(n):
        total = total * BASE + words[i : i + last]
    return mix(total)


def shingles(text: str) -> U64:
    """The shingles of a text in order, repeats included; none for a text without letters.

    Returns:
        `[n]` hashes.
    """
    folded = np.frombuffer(fold(text), np.uint8)
    begins, ends = _spans(folded)
    if len(begins) < FEW_WORDS:
        return _letter_shingles(folded, begins, ends)
    return grams(_hash_spans(folded, begins, ends), WORDS_IN_A_SHINGLE)


def _letter_shingles(folded: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> U64:
    """Five letters in a row of the words, joined and surrounded by blanks."""
    if not len(begins):
        return np.zeros(0, np.uint64)
    joined = b" " + b" ".join(folded[a:b].tobytes() for a, b in zip(begins, ends, strict=True)) + b" "
    data = np.frombuffer(joined, np.uint8)
    letters = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
    width = min(LETTERS_IN_A_SHINGLE, len(letters) - 1)
    return mix(_hash_spans(data, letters[:-width], letters[width:]) + LETTERS_ONLY)


def shingle_set(text: str) -> U64:
    """The distinct shingles of a text, sorted."""
    return distinct(shingles(text))


def distinct(values: U64) -> U64:
    """The different values, sorted: `np.unique`, which takes five times as long over a few hundred."""
    ordered = np.sort(values)
    stays = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=stays[1:])
    found: U64 = ordered[stays]
    return found


def jaccard(a: U64, b: U64) -> float:
    """Size of the intersection by size of the union of two sorted sets; 0 when both are empty."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(len(a) + len(b) - common, 1)


def joined(sets: Iterable[U64]) -> tuple[U64, NDArray[np.int64]]:
    """Sets one behind the other, and where each begins and the last ends: `[total]`, `[n + 1]`."""
    found = list(sets)
    starts = np.concatenate([[0], np.cumsum([len(one) for one in found])]).astype(np.int64)
    return np.concatenate(found) if found else np.zeros(0, np.uint64), starts
