"""Tokenised rows on disk: one flat array of ids, one of the mask, and where each row starts.

Pairs lie interleaved: row 2k is the chosen answer of pair k, row 2k + 1 the rejected one. What the data says of a row
besides its tokens is its rating: above 0 wanted, below 0 unwanted; in a pair, the chosen row's rating minus the
rejected one's is the margin. Rows of which nothing is said have the rating 0, and a file without one has none at all.
"""

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from luthier.artifact import damaged, disk_error
from luthier.text.render import TrainingRow

LONGEST_HEADER = 1 << 20
DTYPES: dict[str, Any] = {"I32": np.int32, "I64": np.int64, "F32": np.float32, "BOOL": np.bool_}


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
        counts = np.zeros(len(self), np.int64)
        for first in range(0, len(self), 4096):  # piece by piece: sums over all tokens would not fit into memory
            starts = self.starts[first : first + 4097]
            sums = np.concatenate([[0], np.cumsum(self.trained[starts[0] : starts[-1]])])
            counts[first : first + 4096] = np.diff(sums[starts - starts[0]])
        return counts

    def release(self) -> None:
        """Let go of what was read of a file: pages that are mapped count as this process's memory."""
        mapped = getattr(self.ids, "_mmap", None)
        if mapped is not None and hasattr(mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def row(self, i: int) -> TrainingRow:
        """Row `i`."""
        part = slice(int(self.starts[i]), int(self.starts[i + 1]))
        return TrainingRow(self.ids[part].tolist(), self.trained[part].tolist())

    def select(self, rows: Sequence[int]) -> "TokenRows":
        """These rows, in this order."""
        return gather([self.row(i) for i in rows], None if self.ratings is None else self.ratings[list(rows)])


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
    """Read what `save_rows` or `RowWriter` wrote. Ids and mask stay on disk, mapped into memory.

    Raises:
        DataError: the file is gone or damaged.
    """
    try:
        tensors = _map_tensors(path)
        tensors["starts"] = np.array(tensors["starts"])
        return TokenRows(**tensors)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _map_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, as read-only maps of it."""
    whole = np.memmap(path, np.uint8, mode="r")
    begin = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    if not 8 < begin <= min(len(whole), LONGEST_HEADER):
        raise ValueError("no header of a safetensors file")
    header = json.loads(whole[8:begin].tobytes())
    header.pop("__metadata__", None)
    if max(about["data_offsets"][1] for about in header.values()) != len(whole) - begin:
        raise ValueError("it is cut off")
    found: dict[str, Any] = {}
    for name, about in header.items():
        first, last = about["data_offsets"]
        found[name] = whole[begin + first : begin + last].view(DTYPES[about["dtype"]])
    return found
