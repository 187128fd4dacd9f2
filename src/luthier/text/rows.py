"""Tokenised rows on disk: one flat array of ids, one of the mask, and where each row starts.

Pairs lie interleaved: row 2k is the chosen answer of pair k, row 2k + 1 the rejected one. What the data says of a row
besides its tokens is its rating: above 0 wanted, below 0 unwanted; in a pair, the chosen row's rating minus the
rejected one's is the margin. Rows of which nothing is said have the rating 0, and a file without one has none at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from luthier.artifact import damaged, disk_error
from luthier.text.render import TrainingRow


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of tokens.

    `ids` int32 [tokens], `trained` bool [tokens], `starts` int64 [rows + 1], `ratings` float32 [rows] or None. While
    training, `reference` [rows] or None is the log-probability of each row's trained tokens before any update, in nats.
    """

    ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    ratings: npt.NDArray[np.float32] | None = None
    reference: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.starts)

    @property
    def trained_counts(self) -> npt.NDArray[np.int64]:
        """Trained tokens of each row."""
        sums = np.concatenate([[0], np.cumsum(self.trained)])
        counts: npt.NDArray[np.int64] = sums[self.starts[1:]] - sums[self.starts[:-1]]
        return counts

    def row(self, i: int) -> TrainingRow:
        """Row `i`."""
        part = slice(int(self.starts[i]), int(self.starts[i + 1]))
        return TrainingRow(self.ids[part].tolist(), self.trained[part].tolist())

    def select(self, rows: Sequence[int]) -> "TokenRows":
        """These rows, in this order."""
        return gather([self.row(i) for i in rows], None if self.ratings is None else self.ratings[list(rows)])

    def __add__(self, other: "TokenRows") -> "TokenRows":
        rated = self.ratings is not None or other.ratings is not None
        return TokenRows(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.trained, other.trained]),
            np.concatenate([self.starts, other.starts[1:] + self.starts[-1]]),
            np.concatenate([_ratings(self), _ratings(other)]) if rated else None,
        )


def _ratings(rows: TokenRows) -> npt.NDArray[np.float32]:
    return np.zeros(len(rows), np.float32) if rows.ratings is None else rows.ratings


def gather(rows: Sequence[TrainingRow], ratings: Sequence[float] | npt.NDArray[np.float32] | None = None) -> TokenRows:
    """Lay rows end to end."""
    starts = np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int64)
    ids = np.fromiter((i for row in rows for i in row.ids), dtype=np.int32, count=int(starts[-1]))
    trained = np.fromiter((t for row in rows for t in row.trained), dtype=np.bool_, count=int(starts[-1]))
    return TokenRows(ids, trained, starts, None if ratings is None else np.asarray(ratings, np.float32))


def save_rows(path: Path, rows: Sequence[TrainingRow], ratings: Sequence[float] | None = None) -> None:
    """Write rows, and where the data has one a rating for each, to a safetensors file.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    packed = gather(rows, ratings)
    tensors: dict[str, npt.NDArray[Any]] = {"ids": packed.ids, "trained": packed.trained, "starts": packed.starts}
    if packed.ratings is not None:
        tensors["ratings"] = packed.ratings
    try:
        save_file(tensors, path)
    except (OSError, SafetensorError) as error:
        raise disk_error(path, error if isinstance(error, OSError) else OSError(str(error))) from error


def load_rows(path: Path) -> TokenRows:
    """Read what `save_rows` wrote.

    Raises:
        DataError: the file is gone or damaged.
    """
    try:
        return TokenRows(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise damaged(path, error) from error
