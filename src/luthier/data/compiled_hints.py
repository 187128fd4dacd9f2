"""The look of `hints.py` as machine code (numba): one pass, some two nanoseconds a byte, held equal by a test.

Letters are looked for all at once: the last three bytes, hashed, tell at which few places a comparison is worth it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from luthier.data import hints
from luthier.data.chained import chained
from luthier.data.hints import CASED, LEADS, LITERALS, MOST_DIGITS, Hints

_SLOTS = 4096
_FACTOR, _SHIFT, _THREE, _LOW = np.uint64(0x9E3779B1), np.uint64(20), np.uint64(0xFFFFFF), np.uint64(0xFFFFFFFF)
_EIGHT = np.uint64(8)
_AT, _BRACE, _BRACES, _BRACKET = hints.AT, hints.BRACE, hints.BRACES, hints.BRACKET
_COLONS, _MAC, _IPV4, _NINO, _ASSIGNED = hints.COLONS, hints.MAC, hints.IPV4, hints.NINO, hints.ASSIGNED
_WORD, _FOLLOWS, _DIGIT, _SIGN = 1, 2, 4, 8
_ASKS = _DIGIT | _SIGN


def _classes() -> Any:
    table = np.zeros(256, np.uint8)
    table[[*range(65, 91), *range(97, 123), 95, 10]] = _WORD
    table[128:192] = _FOLLOWS
    table[[*range(48, 58), *LEADS]] = _DIGIT
    table[[ord(c) for c in "@{[:=>-"]] = _SIGN
    return table


def _index() -> tuple[Any, ...]:
    """Literals one behind the other, by the slot of their first three bytes.

    Bytes, starts, kinds, slots' starts, which slots hold any, and by literal whether its case matters.
    """
    found = sorted(
        (_slot(literal.lower().encode()), literal.encode(), kind)
        for kind, group in LITERALS.items()
        for literal in group
    )
    slots = np.searchsorted([slot for slot, _, _ in found], np.arange(_SLOTS + 1)).astype(np.int32)
    starts = np.cumsum([0, *(len(literal) for _, literal, _ in found)]).astype(np.int32)
    letters = np.frombuffer(b"".join(literal for _, literal, _ in found), np.uint8)
    kinds = np.array([kind for _, _, kind in found], np.int64)
    return letters, starts, kinds, slots, np.diff(slots) > 0, (kinds & CASED) != 0


def _slot(literal: bytes) -> int:
    return ((literal[0] << 16 | literal[1] << 8 | literal[2]) * int(_FACTOR) & 0xFFFFFFFF) >> int(_SHIFT)


_CLASS = _classes()
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_INDEX = _index()
"""Handed over at each call: constants of compiled code are remembered on disk and would outlive a change of it."""
_VALUE = np.zeros(256, np.bool_)
_VALUE[[ord(c) for c in "+/_.~!@#$%^&-"]] = True
_VALUE[48:58] = _VALUE[65:91] = _VALUE[97:123] = True
_QUOTES = np.zeros(256, np.bool_)
_QUOTES[[34, 39, 96]] = True


@njit(cache=True)
def _literals(data, i, slot, index):
    """The kinds of the literals that begin two bytes before `i`."""
    letters, starts, of, first, _, cased = index
    kinds = 0
    begin = i - 2
    for k in range(first[slot], first[slot + 1]):
        a, size = starts[k], starts[k + 1] - starts[k]
        if begin + size > len(data):
            continue
        j = 0
        while j < size and (data[begin + j] if cased[k] else _LOWER[data[begin + j]]) == letters[a + j]:
            j += 1
        if j == size:
            kinds |= of[k]
    return kinds


@njit(cache=True)
def _assigned(data, i):
    """True when sixteen letters of a value follow the sign at `i`, after at most three spaces and a quote."""
    size = len(data)
    for spaces in range(4):
        for quote in range(2):
            a = i + 1 + spaces
            if quote:
                if a >= size or not _QUOTES[data[a]]:
                    continue
                a += 1
            if a + 16 <= size:
                j = a
                while j < a + 16 and _VALUE[data[j]]:
                    j += 1
                if j == a + 16:
                    return True
        a = i + 1 + spaces
        if a >= size or not (data[a] == 32 or 9 <= data[a] <= 13):
            return False
    return False


@njit(cache=True)
def _digits(data, i, most):
    """How many digits stand from `i` on, up to `most`."""
    n = 0
    while n < most and i + n < len(data) and 48 <= data[i + n] <= 57:
        n += 1
    return n


@njit(cache=True)
def _ipv4(data, i):
    """True when the full stop at `i` is the first of three in an address; a digit is known to stand before it."""
    for _ in range(2):
        n = _digits(data, i + 1, 4)
        if n == 0 or n > 3 or i + 1 + n >= len(data) or data[i + 1 + n] != 46:
            return False
        i += 1 + n
    return _digits(data, i + 1, 1) == 1


@njit(cache=True)
def _nino(data, i):
    """True when the digit at `i` is the first of two behind two capitals and perhaps a blank."""
    if _digits(data, i, 2) < 2:
        return False
    a = i - 1 if data[i - 1] == 32 else i
    return a >= 2 and 65 <= data[a - 1] <= 90 and 65 <= data[a - 2] <= 90


@njit(cache=True)
def _sign(data, i, colons):
    """The kinds that the sign at `i` tells of; `colons` have been seen with it."""
    c = data[i]
    size = len(data)
    following = data[i + 1] if i + 1 < size else 0
    kinds = 0
    if c == 64:
        kinds = _AT
    elif c == 91:
        kinds = _BRACKET
    elif c == 123:
        kinds = _BRACE | (_BRACES if following == 123 else 0)
    elif c != 45 and _assigned(data, i):
        kinds = _ASSIGNED
    if c == 58 and (following == 58 or colons >= 7):
        kinds |= _COLONS
    if (c == 58 or c == 45) and i + 12 < size and data[i + 3] == data[i + 6] == data[i + 9] == data[i + 12] == c:
        kinds |= _MAC
    return kinds


@njit(cache=True)
def _follows(data, last, i):
    """True when the digit at `i` is in a row with the one at `last`: at most two signs between them."""
    signs = 0
    for j in range(i - 1, last, -1):
        k = _CLASS[data[j]]
        if k == _WORD:
            return False
        signs += k != _FOLLOWS
        if signs > 2:
            return False
    return True


@njit(cache=True)
def _look(data, index):
    worth = index[4]
    kinds = most = run = colons = 0
    last = -1
    code = np.uint64(0)
    for i in range(len(data)):
        c = data[i]
        code = ((code << _EIGHT) | np.uint64(_LOWER[c])) & _THREE
        slot = ((code * _FACTOR) & _LOW) >> _SHIFT
        if worth[slot] and i >= 2:
            kinds |= _literals(data, i, slot, index)
        k = _CLASS[c]
        if k & _ASKS:
            if k == _SIGN:
                colons += c == 58
                kinds |= _sign(data, i, colons)
            else:
                run = run + 1 if run and _follows(data, last, i) else 1
                last = i
                most = max(most, run)
                if c < 58:
                    if i + 1 < len(data) and data[i + 1] == 46 and _ipv4(data, i + 1):
                        kinds |= _IPV4
                    if i >= 2 and _nino(data, i):
                        kinds |= _NINO
    return kinds, most


@njit(cache=True, nogil=True)
def _look_at(data, starts, index, found):
    """The hints of texts that stand one behind the other: kinds and digits, `[n, 2]`."""
    for k in range(len(found)):
        found[k] = _look(data[starts[k] : starts[k + 1]], index)


def look(texts: Sequence[str]) -> list[Hints]:
    """The hints of texts."""
    found = np.empty((len(texts), 2), np.int64)
    _look_at(*chained(texts), _INDEX, found)
    np.minimum(found[:, 1], MOST_DIGITS, out=found[:, 1])
    return list(map(Hints._make, found.tolist()))
