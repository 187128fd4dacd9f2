"""What was worked out of rows, remembered by their content: a row seen before costs a look-up.

A memory is a folder: `outcomes.sqlite` has the small things, `bodies.bin` what is long (content, token rows,
signatures), one after another in the order in which they were made. It may be deleted at any time.
"""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic_core import to_json

from luthier.artifact import disk_error, make_folder
from luthier.data.outcome import Outcome
from luthier.data.packing import pack_json
from luthier.errors import LuthierError

PARTS = 500
"""Keys looked up at once."""
CLOSE = 8192
"""Bytes a body up to which it is quicker to read what lies between them, too."""
KEPT_MEMORIES = 4
"""Settings for which a memory is kept; the one used longest ago is deleted."""
WASTE = 4
"""A memory is begun anew when it holds this many times what was last used of it, and more than a gigabyte."""


class Remembered(NamedTuple):
    """The small things of an outcome; `at` is where its body begins, the last three the lengths of its parts."""

    at: int
    mark: bytes
    shape: str | None
    fate: str
    rule: str
    reason: str
    score: float | None
    risk: float
    note: str
    rating: float | None
    place: int
    tie: int | None
    moment: float | str | None
    unread: str
    tokens: int | None
    trained: int | None
    longest: int | None
    content: int
    pieces: int
    signatures: str


class Packed(NamedTuple):
    """Outcomes as they go from process to process.

    All bodies in one, `Remembered` with `at` within it, and the same as JSON without `at`: a database takes a row of
    three columns five times as fast as one of twenty.
    """

    bodies: bytes
    small: list[tuple[Any, ...]]
    written: list[bytes]


def packed(outcomes: Iterable[Outcome]) -> Packed:
    """Outcomes in as few objects as can be."""
    parts: list[bytes] = []
    small: list[tuple[Any, ...]] = []
    written: list[bytes] = []
    at = 0
    for one in outcomes:
        body = (one.content, one.pieces, *one.signatures)
        fate = one.fate
        said = (one.shape, fate.name, one.rule, fate.reason, fate.score, one.risk, one.note, one.rating)
        counted = (one.place, one.tie, one.moment, one.unread, one.tokens, one.trained, one.longest)
        sizes = list(map(len, body))
        rest = (*said, *counted, sizes[0], sizes[1], str(sizes[2:]))
        small.append((at, one.mark, *rest))
        written.append(_written([one.mark.hex(), *rest]))
        parts += body
        at += sum(sizes)
    return Packed(b"".join(parts), small, written)


def _written(values: list[Any]) -> bytes:
    try:
        return to_json(values)
    except ValueError:  # half a character
        return pack_json(values)


def _read(at: int, written: bytes) -> Remembered:
    try:
        mark, *rest = json.loads(written.decode("utf-8", "surrogatepass"))
        return Remembered(at, bytes.fromhex(mark), *rest)
    except (ValueError, TypeError) as error:
        raise sqlite3.DatabaseError("an outcome is damaged") from error


@lru_cache
def lengths_of(signatures: str) -> list[int]:
    """The lengths of an outcome's signatures, of which there are few different ones."""
    found: list[int] = json.loads(signatures)
    return found


class Memory:
    """Outcomes by key. Bodies are read by position, from any thread.

    A new memory gets its index when it is closed: keeping one in order while a million random keys come in takes longer
    than working on the few rows again that come twice. One that is to live for this time only gets none.
    """

    def __init__(self, folder: Path, *, lasting: bool = True) -> None:
        self.folder, self._lasting = folder, lasting
        make_folder(folder)
        try:
            self._bodies = (folder / "bodies.bin").open("ab", buffering=1 << 20)
            self._read = os.open(folder / "bodies.bin", os.O_RDONLY)
        except OSError as error:
            raise disk_error(folder, error) from error
        self._end = self._bodies.seek(0, os.SEEK_END)
        self._base = connect(folder / "outcomes.sqlite")
        self._base.execute("CREATE TABLE IF NOT EXISTS outcomes (key BLOB, at INTEGER, small BLOB)")
        self.used = 0
        last = self._base.execute("SELECT at, small FROM outcomes ORDER BY rowid DESC LIMIT 1").fetchone()
        self._new = last is None
        if last is not None:
            if last[0] + _size(_read(*last)) > self._end:
                raise sqlite3.DatabaseError("the bodies are not all there")
            self._index()

    def _index(self) -> None:
        self._base.execute("CREATE INDEX IF NOT EXISTS by_key ON outcomes (key)")

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, Remembered]:
        """What is known of these rows from earlier times."""
        found: dict[bytes, Remembered] = {}
        if self._new:
            return found
        for first in range(0, len(keys), PARTS):
            part = keys[first : first + PARTS]
            marks = ",".join("?" * len(part))
            asked = f"SELECT key, at, small FROM outcomes WHERE key IN ({marks})"
            for key, at, written in self._base.execute(asked, part):
                found[key] = _read(at, written)
        self.used += sum(map(_size, found.values()))
        return found

    def keep(self, keys: Sequence[bytes], outcomes: Packed) -> dict[bytes, Remembered]:
        """Remember outcomes by their keys."""
        begun = self._end
        found = {key: Remembered(begun + at, *rest) for key, (at, *rest) in zip(keys, outcomes.small, strict=True)}
        try:
            self._bodies.write(outcomes.bodies)
            self._bodies.flush()
            self._end += len(outcomes.bodies)
            made = zip(keys, [one.at for one in found.values()], outcomes.written, strict=True)
            self._base.executemany("INSERT INTO outcomes VALUES (?, ?, ?)", made)
            self._base.commit()
        except (OSError, sqlite3.OperationalError) as error:
            raise disk_error(self.folder, error if isinstance(error, OSError) else OSError(str(error))) from error
        self.used += self._end - begun
        return found

    def body(self, at: int, length: int) -> bytes:
        """Bytes of the bodies."""
        return os.pread(self._read, length, at)

    def bodies(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The same for several places and lengths; read at once where they lie close together, as new ones do."""
        first = min(at for at, _ in spans)
        last = max(at + length for at, length in spans)
        if last - first > CLOSE * len(spans):
            return [self.body(at, length) for at, length in spans]
        whole = self.body(first, last - first)
        return [whole[at - first : at - first + length] for at, length in spans]

    def close(self) -> None:
        """Close the files."""
        try:
            if self._new and self._lasting:
                self._index()
        except sqlite3.OperationalError:  # no room: it is tried again when the memory is opened
            pass
        self._base.close()
        self._bodies.close()
        os.close(self._read)

    @property
    def wasteful(self) -> bool:
        """True when most of it was not used this time."""
        return bool(self._end > max(WASTE * self.used, 1 << 30))


def _size(one: Remembered) -> int:
    return one.content + one.pieces + sum(lengths_of(one.signatures))


def connect(path: Path) -> sqlite3.Connection:
    """A database that gives up safety at a power cut for speed: everything in it can be worked out again."""
    try:
        base = sqlite3.connect(path)
        for setting in ("journal_mode=TRUNCATE", "synchronous=OFF", "cache_size=-65536", "temp_store=FILE"):
            base.execute(f"PRAGMA {setting}")
    except sqlite3.OperationalError as error:
        raise disk_error(path, OSError(str(error))) from error
    return base


@contextmanager
def open_memory(root: Path | None, fingerprint: str) -> Iterator[Memory]:
    """The memory for these settings under `root`; one for this time only when there is no `root` or it is in use."""
    if root is not None:
        make_folder(root)
        folder = root / fingerprint[:16]
        lock = FileLock(root / f"{fingerprint[:16]}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            root = None
    if root is None:
        with tempfile.TemporaryDirectory(prefix="luthier-") as name:
            memory = Memory(Path(name), lasting=False)
            try:
                yield memory
            finally:
                memory.close()
        return
    try:
        memory = _open_or_begin(folder)
        try:
            yield memory
        finally:
            wasteful = memory.wasteful
            memory.close()
        folder.touch()
        if wasteful:
            shutil.rmtree(folder, ignore_errors=True)
        _forget(root)
    finally:
        lock.release()


def _open_or_begin(folder: Path) -> Memory:
    try:
        return Memory(folder)
    except LuthierError:
        raise
    except sqlite3.DatabaseError:  # damaged: nothing in it cannot be made again
        shutil.rmtree(folder)
        return Memory(folder)


def _forget(root: Path) -> None:
    """Delete the memories that have not been used for longest."""
    folders = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for folder in folders[KEPT_MEMORIES:]:
        lock = FileLock(root / f"{folder.name}.lock")
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue
