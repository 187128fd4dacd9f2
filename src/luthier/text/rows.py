"""Tokenised rows on disk: one flat array of ids, one of the mask, and where each row starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from luthier.artifact import damaged, disk_error
from luthier.text.render import TrainingRow


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of tokens. `ids` int32 [tokens], `trained` bool [tokens], `starts` int64 [rows + 1]."""

    ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]

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
        return gather([self.row(i) for i in rows])

    def __add__(self, other: "TokenRows") -> "TokenRows":
        return TokenRows(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.trained, other.trained]),
            np.concatenate([self.starts, other.starts[1:] + self.starts[-1]]),
        )


def gather(rows: Sequence[TrainingRow]) -> TokenRows:
    """Lay rows end to end."""
    starts = np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int64)
    ids = np.fromiter((i for row in rows for i in row.ids), dtype=np.int32, count=int(starts[-1]))
    trained = np.fromiter((t for row in rows for t in row.trained), dtype=np.bool_, count=int(starts[-1]))
    return TokenRows(ids, trained, starts)


def save_rows(path: Path, rows: Sequence[TrainingRow]) -> None:
    """Write rows to a safetensors file.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    packed = gather(rows)
    try:
        save_file({"ids": packed.ids, "trained": packed.trained, "starts": packed.starts}, path)
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
