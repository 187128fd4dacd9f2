"""The single blanks of `split.normalise` of ASCII texts as machine code (numba), held equal by a test."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numba import njit

from luthier.data.chained import chained
from luthier.data.split import BLANKED

_SPACE = np.frombuffer(BLANKED, np.uint8) == 32


@njit(cache=True, nogil=True)
def _single(data, starts, space, out, ends):
    n = 0
    for k in range(len(ends)):
        begin = n
        before = True
        for i in range(starts[k], starts[k + 1]):
            c = data[i]
            blank = space[c]
            out[n] = np.uint8(32) if blank else c
            n += not (blank and before)
            before = blank
        if n > begin and before:
            n -= 1
        ends[k] = n


def single(texts: Sequence[str]) -> list[str]:
    """Texts of ASCII letters with each run of white space as one blank, and none around them."""
    data, starts = chained(texts)
    out, ends = np.empty(len(data) + 1, np.uint8), np.empty(len(texts), np.int64)
    _single(data, starts, _SPACE, out, ends)
    whole, bounds = out[: ends[-1] if len(ends) else 0].tobytes().decode("ascii"), [0, *ends.tolist()]
    return [whole[a:b] for a, b in pairwise(bounds)]
