"""Weights on disk, one tensor at a time: reading from and writing to safetensors without a model in memory.

Files are read with plain reads instead of a memory map, so that what was read and let go no longer counts as memory
of the process. The format: eight bytes with the length of a JSON header, that header (name -> type, shape, place), and
the data.
"""

import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from luthier.artifact import disk_error, make_folder, write_text
from luthier.errors import DataError

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in TYPES.items()}
INDEX = "model.safetensors.index.json"
SHARD = 2 * 2**30
"""Largest file that is written, in bytes, unless a single tensor is larger."""
LONGEST_HEADER = 100 * 2**20
"""The format's own limit, in bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: file, offset of its first byte, shape and type."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Its bytes."""
        return prod(self.shape) * self.dtype.itemsize


class Weights(Mapping[str, torch.Tensor]):
    """The tensors of a folder by name; each is read when it is asked for, and kept by nobody here."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = dict(places)

    @classmethod
    def of_folder(cls, folder: Path) -> "Weights":
        """The tensors of a model's folder: of one file, or of the shards that its index names.

        Raises:
            DataError: a file is damaged or missing.
        """
        index = folder / INDEX
        if index.exists():
            try:
                files = sorted(
                    {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
                )
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise _damaged(index, error) from error
        else:
            files = sorted(folder.glob("*.safetensors"))
        places: dict[str, Place] = {}
        for file in files:
            places |= read_header(file)
        return cls(places)

    def __getitem__(self, name: str) -> torch.Tensor:
        place = self.places[name]
        return _read(place, 0, place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, name: str, at_most: int) -> Iterator[torch.Tensor]:
        """A tensor in slices along its first axis, each of at most so many bytes (and one row at least)."""
        place = self.places[name]
        if not place.shape:
            yield self[name]
            return
        row = prod(place.shape[1:]) * place.dtype.itemsize
        step = max(1, at_most // max(1, row))
        for start in range(0, place.shape[0], step):
            count = min(step, place.shape[0] - start)
            yield _read(place, start * row, (count, *place.shape[1:]))


def read_header(file: Path) -> dict[str, Place]:
    """The tensors of one file.

    Raises:
        DataError: it is no safetensors file, it is cut short, or holds a type that is not known.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > LONGEST_HEADER:
                raise ValueError("the header is longer than the format allows")
            header: dict[str, Any] = json.loads(stream.read(length))
        whole, places = file.stat().st_size, {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            place = Place(file, 8 + length + begin, tuple(entry["shape"]), TYPES[entry["dtype"]])
            if place.size != end - begin or 8 + length + end > whole:
                raise ValueError(f"the file ends before '{name}' does")
            places[name] = place
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _damaged(file, error) from error
    return places


def _read(place: Place, skip: int, shape: tuple[int, ...]) -> torch.Tensor:
    size = prod(shape) * place.dtype.itemsize
    content = bytearray(size)
    try:
        with place.file.open("rb", buffering=0) as stream:
            stream.seek(place.offset + skip)
            view, done = memoryview(content), 0
            while done < size:
                count = stream.readinto(view[done:])
                if not count:
                    raise ValueError("the file is cut short")
                done += count
    except (OSError, ValueError) as error:
        raise _damaged(place.file, error) from error
    if not size:
        return torch.empty(shape, dtype=place.dtype)
    return torch.frombuffer(content, dtype=place.dtype).reshape(shape)


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(f"damaged: {error}", where=str(file), fix="fetch the model again, whole")


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Its bytes."""
        return prod(self.shape) * self.dtype.itemsize


def shards(planned: Sequence[Planned], largest: int = SHARD) -> list[list[Planned]]:
    """The tensors in their order, divided so that no file is larger than `largest` unless one tensor is."""
    files: list[list[Planned]] = []
    room = 0
    for tensor in planned:
        if not files or tensor.size > room:
            files.append([])
            room = largest
        files[-1].append(tensor)
        room -= tensor.size
    return files


def give_back() -> None:
    """Ask the C library to return freed memory to the system.

    glibc keeps what was freed between blocks that live on, and a loop over tensors of many sizes grows without end.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class ShardWriter:
    """Writes a model's folder tensor by tensor, in the planned order, each tensor in one or more pieces.

    Files get their names only once they are whole, and the index comes last.
    """

    def __init__(self, folder: Path, planned: Sequence[Planned], largest: int = SHARD) -> None:
        make_folder(folder)
        self._folder, self._files = folder, shards(planned, largest)
        self._queue = [(number, tensor) for number, file in enumerate(self._files) for tensor in file]
        self._at, self._written, self._current = 0, 0, -1
        self._stream: BinaryIO | None = None

    def write(self, name: str, piece: torch.Tensor) -> None:
        """The next piece of a tensor, contiguous, in the type that was planned.

        Raises:
            Missing: the disk is full or cannot be written.
            ValueError: it is not this tensor's turn.
        """
        number, tensor = self._queue[self._at]
        if name != tensor.name or piece.dtype != tensor.dtype:
            raise ValueError(f"{name} in {piece.dtype} is written where {tensor.name} in {tensor.dtype} is due")
        try:
            if number != self._current:
                self._open(number)
            assert self._stream is not None
            flat = piece.detach().contiguous().reshape(-1)
            if flat.numel():
                self._stream.write(flat.view(torch.uint8).numpy().data)
        except OSError as error:
            raise disk_error(self._folder, error) from error
        self._written += piece.numel() * piece.dtype.itemsize
        if self._written > tensor.size:
            raise ValueError(f"{name} is larger than planned")
        if self._written == tensor.size:
            self._at, self._written = self._at + 1, 0

    def finish(self) -> None:
        """Give the last file its name and write the index.

        Raises:
            ValueError: a planned tensor was not written.
        """
        if self._at != len(self._queue):
            raise ValueError(f"{self._queue[self._at][1].name} was not written")
        try:
            self._close()
            if len(self._files) > 1:
                total = sum(tensor.size for _, tensor in self._queue)
                names = {tensor.name: self._name(number) for number, tensor in self._queue}
                body = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
                write_text(self._folder / INDEX, json.dumps(body, indent=2) + "\n")
        except OSError as error:
            raise disk_error(self._folder, error) from error

    def abandon(self) -> None:
        """Remove what was written."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        for number in range(len(self._files)):
            for path in (self._folder / self._name(number), self._aside(number)):
                path.unlink(missing_ok=True)
        (self._folder / INDEX).unlink(missing_ok=True)

    def _name(self, number: int) -> str:
        count = len(self._files)
        return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    def _aside(self, number: int) -> Path:
        return self._folder / (self._name(number) + ".partial")

    def _open(self, number: int) -> None:
        self._close()
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor in self._files[number]:
            header[tensor.name] = {
                "dtype": NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [at, at + tensor.size],
            }
            at += tensor.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
        self._stream = self._aside(number).open("wb")
        self._stream.write(struct.pack("<Q", len(text)) + text)
        self._current = number

    def _close(self) -> None:
        if self._stream is None:
            return
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        self._aside(self._current).replace(self._folder / self._name(self._current))
