"""The judgement of lines of `c4.py` as machine code (numba), held equal by a test."""

from collections.abc import Sequence

import numpy as np
from numba import njit

from luthier.data.c4 import CLOSING, LONGEST_WORD, TERMINAL, Lines
from luthier.data.chained import chained

_ENDS, _CLOSES, _SENTENCE, _SPACE = (np.zeros(256, np.bool_) for _ in range(4))
_ENDS[[ord(c) for c in TERMINAL if c < "\x80"]] = True
_CLOSES[[ord(c) for c in CLOSING if c < "\x80"]] = True
_SENTENCE[[ord(c) for c in ".!?"]] = True
_SPACE[[*range(9, 14), *range(28, 33)]] = True


_PLAIN = np.zeros(256, np.bool_)
_PLAIN[[c for c in range(128) if c != 10]] = True
_PLAIN &= ~(_ENDS | _CLOSES | _SENTENCE | _SPACE)
"""Letters and what else says nothing of where a word, a sentence or a line ends."""


@njit(cache=True)
def _space(data, i):
    """Bytes of the white space at `i`, 0 for none: what Unicode calls so."""
    c = data[i]
    if c < 128:
        return 1 if _SPACE[c] else 0
    if c == 0xC2 and (data[i + 1] == 0x85 or data[i + 1] == 0xA0):
        return 2
    if c == 0xE2 and data[i + 1] == 0x80:
        d = data[i + 2]
        return 3 if d <= 0x8A or d == 0xA8 or d == 0xA9 or d == 0xAF else 0
    if c == 0xE2 and data[i + 1] == 0x81 and data[i + 2] == 0x9F:
        return 3
    if (c == 0xE1 and data[i + 1] == 0x9A and data[i + 2] == 0x80) or (
        c == 0xE3 and data[i + 1] == 0x80 and data[i + 2] == 0x80
    ):
        return 3
    return 0


@njit(cache=True)
def _lines(data, least_words, stay):
    """Write which lines stay; lines, those that go, sentences of those that stay, all sentences."""
    size = len(data)
    kept = total = line = gone = i = 0
    while i <= size:
        words = longest = letters = sentences = dots = 0
        pending = ends = False
        while i < size and data[i] != 10:
            c = data[i]
            if _PLAIN[c]:
                a = i
                while i < size and _PLAIN[data[i]]:
                    i += 1
                letters += i - a
                pending = ends = False
                dots = 0
                continue
            space = 1 if c == 32 else _space(data, i)
            if space:
                sentences += pending
                pending = False
                words += letters > 0
                longest = max(longest, letters)
                letters = 0
                i += space
                continue
            letters += c & 0xC0 != 0x80
            dots = (dots + 1 if letters > 1 else 1) if c == 46 else 0
            quote = c == 0xE2 and data[i + 1] == 0x80 and data[i + 2] == 0x9D
            ends = _ENDS[c] or quote
            if _SENTENCE[c]:
                pending = True
            elif not (_CLOSES[c] or quote):
                pending = False
            i += 3 if quote else 1
        i += 1
        sentences += pending
        words += letters > 0
        longest = max(longest, letters)
        stays = ends and dots < 3 and words >= least_words and longest <= LONGEST_WORD
        stay[line] = stays
        line += 1
        total += sentences
        if stays:
            kept += sentences
        else:
            gone += 1
    return line, gone, kept, total


@njit(cache=True, nogil=True)
def _judge(data, starts, least_words, stay, found):
    at = 0
    for k in range(len(found)):
        found[k, 1:] = _lines(data[starts[k] : starts[k + 1]], least_words, stay[at:])
        found[k, 0] = at
        at += found[k, 1]


def lines(texts: Sequence[str], least_words: int) -> list[Lines]:
    """Judge the lines of texts, as `c4.plain` does."""
    data, starts = chained(texts)
    stay = np.empty(sum(text.count("\n") + 1 for text in texts), np.bool_)
    found = np.empty((len(texts), 5), np.int64)
    _judge(data, starts, least_words, stay, found)
    return [Lines(stay[at : at + n], gone, kept, total) for at, n, gone, kept, total in found.tolist()]
