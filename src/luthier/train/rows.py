"""The rows of training: the user's and those of replay after them, without a copy of either.

Token files stay mapped from disk, however large they are; what is asked for is read where it lies.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from luthier.text import TokenRows

PIECE = 1 << 20
"""Tokens looked at in one go."""


class Chain:
    """Two arrays one behind the other, read like a single one of their lengths together.

    Slices and arrays of places can be asked for; a slice inside of one of both is a view of it.
    """

    def __init__(self, first: npt.NDArray[Any], second: npt.NDArray[Any]) -> None:
        self.first, self.second = first, second
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, at: slice | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        border = len(self.first)
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                raise ValueError("only neighbours can be read")
            if stop <= border:
                return self.first[start:stop]
            if start >= border:
                return self.second[start - border : stop - border]
            return np.concatenate([self.first[start:], self.second[: stop - border]])
        late = at >= border
        found = np.empty(len(at), self.dtype)
        found[~late] = self.first[at[~late]]
        found[late] = self.second[at[late] - border]
        return found


def join(first: TokenRows, second: TokenRows) -> TokenRows:
    """The rows of both; ids and masks stay where they are."""
    rated = first.ratings is not None or second.ratings is not None
    ids: Any = Chain(first.ids, second.ids)
    trained: Any = Chain(first.trained, second.trained)
    starts = np.concatenate([first.starts, second.starts[1:] + first.starts[-1]])
    return TokenRows(ids, trained, starts, np.concatenate([_ratings(first), _ratings(second)]) if rated else None)


def _ratings(rows: TokenRows) -> npt.NDArray[np.float32]:
    return np.zeros(len(rows), np.float32) if rows.ratings is None else rows.ratings


def used_ids(rows: TokenRows) -> set[int]:
    """Every id that is in the rows."""
    found: set[int] = set()
    for start in range(0, int(rows.starts[-1]), PIECE):
        found.update(np.unique(rows.ids[start : start + PIECE]).tolist())
    return found


def rows_digest(rows: TokenRows) -> str:
    """The sha256 of ids, masks and borders."""
    found = hashlib.sha256(rows.starts.tobytes())
    for start in range(0, int(rows.starts[-1]), PIECE):
        found.update(rows.ids[start : start + PIECE].tobytes())
        found.update(rows.trained[start : start + PIECE].tobytes())
    return found.hexdigest()
