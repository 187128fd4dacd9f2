"""How long the rows are, and what each limit on their length would cost."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LIMITS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
KEEPS = 0.995
"""Share of the rows that the suggested limit keeps."""


class Cost(NamedTuple):
    """What a limit in tokens loses: rows, and the trained tokens in them."""

    limit: int
    rows: int
    trained: int


def costs(lengths: Sequence[int], trained: Sequence[int], context: int) -> list[Cost]:
    """The cost of each usual limit up to the model's context: the first that keeps a row to one that loses none."""
    counts, tokens = np.asarray(lengths, np.int64), np.asarray(trained, np.int64)
    found: list[Cost] = []
    for limit in sorted({*(limit for limit in LIMITS if limit < context), context}):
        lost = counts > limit
        if len(counts) and not lost.all():
            found.append(Cost(limit, int(lost.sum()), int(tokens[lost].sum())))
        if len(counts) and not lost.any():
            break
    return found


def suggested(found: Sequence[Cost], rows: int) -> int | None:
    """The smallest limit that loses hardly any row; None where there is none."""
    return next((cost.limit for cost in found if cost.rows <= (1 - KEEPS) * rows), None)
