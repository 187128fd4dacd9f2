"""Writing token rows one after another, into a file that is a whole safetensors file at the end.

A safetensors file begins with a header that says where each tensor lies, so it is commonly written from memory. Here
room is left for the header, the ids are written as they come, and the shorter tensors follow when their length is
known. Memory is 8 bytes a row.
"""

import json
import shutil
import tempfile
from array import array
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from luthier.artifact import ASIDE, disk_error
from luthier.text.render import TrainingRow

HEADER = 1016
"""Bytes kept for the header; with the 8 of its length the ids begin at 1024, aligned for memory maps."""


class RowWriter:
    """Writes the file that `load_rows` reads. Use it in a `with`: after an error nothing is left at `path`.

    Raises:
        Missing: the disk is full or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self.tokens = self.trained = self.longest = 0
        self._aside = path.with_name(path.name + ASIDE)
        self._starts = array("q", [0])
        self._ratings: array[float] | None = None
        try:
            self._file: IO[bytes] = self._aside.open("wb")
            self._mask: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed in `__exit__`
            self._file.write(bytes(8 + HEADER))
        except OSError as error:
            raise disk_error(path, error) from error

    def add(self, row: TrainingRow, rating: float | None = None) -> None:
        """One more row; `rating` is what the data says of it, where it says anything of any row."""
        self.add_packed(np.asarray(row.ids, np.int32).tobytes(), bytes(row.trained), rating)

    def add_packed(self, ids: bytes, mask: bytes, rating: float | None = None) -> None:
        """One more row: ids as int32 in native order, the mask with one byte a token."""
        try:
            self._file.write(ids)
            self._mask.write(mask)
        except OSError as error:
            raise disk_error(self.path, error) from error
        if rating is not None and self._ratings is None:
            self._ratings = array("f", bytes(4 * self.rows))
        if self._ratings is not None:
            self._ratings.append(rating or 0.0)
        self.rows += 1
        self.tokens += len(mask)
        self.trained += mask.count(1)
        self.longest = max(self.longest, len(mask))
        self._starts.append(self.tokens)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            with self._file, self._mask:
                if kind is None:
                    self._close()
            if kind is None:
                self._aside.replace(self.path)
        except OSError as error:
            raise disk_error(self.path, error) from error
        finally:
            self._aside.unlink(missing_ok=True)

    def _close(self) -> None:
        header: dict[str, Any] = {}
        end = _describe(header, "ids", "I32", self.tokens, 4, 0)
        end = _describe(header, "starts", "I64", self.rows + 1, 8, end)
        self._file.write(self._starts.tobytes())
        if self._ratings is not None:
            end = _describe(header, "ratings", "F32", self.rows, 4, end)
            self._file.write(self._ratings.tobytes())
        _describe(header, "trained", "BOOL", self.tokens, 1, end)
        self._mask.seek(0)
        shutil.copyfileobj(self._mask, self._file, 1 << 20)
        text = json.dumps(header, separators=(",", ":")).encode().ljust(HEADER)
        assert len(text) == HEADER
        self._file.seek(0)
        self._file.write(HEADER.to_bytes(8, "little") + text)


def _describe(header: dict[str, Any], name: str, dtype: str, count: int, size: int, start: int) -> int:
    end = start + count * size
    header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [start, end]}
    return end
