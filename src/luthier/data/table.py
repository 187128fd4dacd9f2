"""The rows of one curation on disk: where each stands, what became of it, where its body lies. Memory stays flat.

It lives as long as the curation. What is compared or counted goes through SQL, what is long stays in the memory's
bodies and is read one row at a time.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from luthier.artifact import damaged
from luthier.data.memory import PARTS, Memory, Remembered, connect, lengths_of
from luthier.data.packing import at_place, unpack_content, unpack_rows
from luthier.data.step import Content, Resolution, Row
from luthier.types import Fate

SMALL = Remembered._fields
COLUMNS = ("source", "line", "hash", *SMALL, "kept", "side", "fold")
KEPT = "fate = 'kept'"
AT_ONCE = 10_000
"""What a set step says of so many rows is held in memory."""


class Place(NamedTuple):
    """Where a row stands: the number of its source, the name of its file, the line; and the hash of what is there."""

    source: int
    file: str
    line: int
    digest: str


class Table:
    """Rows numbered from 1 in the order of the input. Use it in a `with`."""

    def __init__(self, memory: Memory, folder: Path | None = None) -> None:
        self.memory = memory
        self._folder = tempfile.TemporaryDirectory(prefix=".rows-", dir=folder)
        self._base = connect(Path(self._folder.name) / "rows.sqlite")
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("CREATE TABLE files (n INTEGER PRIMARY KEY, source INTEGER, name TEXT)")
        self._base.execute(f"CREATE TABLE rows (n INTEGER PRIMARY KEY, file, {', '.join(COLUMNS[1:])})")
        self._base.execute("CREATE TABLE links (a INTEGER, b INTEGER)")
        self._files: dict[tuple[int, str], int] = {}
        self._names: list[str] = []
        self.count = 0

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._folder.cleanup()

    def add(self, rows: Iterable[tuple[Place, Remembered]]) -> None:
        """Take in rows, in order."""
        made = []
        unsettled = (None, None, None)  # the row kept in its place, its side, its fold
        for place, small in rows:
            self.count += 1
            made.append((self.count, self._file(place), place.line, bytes.fromhex(place.digest), *small, *unsettled))
        marks = ",".join("?" * (len(COLUMNS) + 1))
        self._base.executemany(f"INSERT INTO rows VALUES ({marks})", made)

    def _file(self, place: Place) -> int:
        number = self._files.get((place.source, place.file))
        if number is None:
            number = self._files[place.source, place.file] = len(self._files)
            self._names.append(place.file)
            self._base.execute("INSERT INTO files VALUES (?, ?, ?)", (number, place.source, place.file))
        return number

    def sql(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a query on the tables `rows`, `files` and `links`."""
        return self._base.cursor().execute(query, values)

    def change(self, query: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a change for each of `values`."""
        self._base.executemany(query, values)

    def reject(self, where: str, fate: Fate, rule: str) -> int:
        """Give a fate to the kept rows that fit a condition; how many they were."""
        query = f"UPDATE rows SET fate = ?, reason = ?, score = ?, rule = ? WHERE {KEPT} AND {where}"
        return self._base.execute(query, (fate.name, fate.reason, fate.score, rule)).rowcount

    def resolve(self, found: Iterable[Resolution], rule: str) -> None:
        """Take in what a set step says of rows."""
        rest = iter(found)
        while part := list(islice(rest, AT_ONCE)):
            self._resolve(part, rule)

    def _resolve(self, found: Iterable[Resolution], rule: str) -> None:
        fates, links, risks = [], [], []
        for one in found:
            if one.fate is not None:
                fate = one.fate
                reason = fate.reason
                if one.kept is not None:
                    kept = self.where(one.kept)
                    reason = f"close to {kept}: {reason}" if reason else f"same as {kept}"
                fates.append((fate.name, reason, fate.score, rule, one.kept, one.row))
            if one.together is not None:
                links.append((one.row, one.together))
            if one.risk or one.note:
                risks.append((one.risk, f"{rule}: {one.note}" if one.note else rule, one.row))
        self.change("UPDATE rows SET fate = ?, reason = ?, score = ?, rule = ?, kept = ? WHERE n = ?", fates)
        self.link(links)
        self.change(
            "UPDATE rows SET risk = max(risk, ?), note = CASE note WHEN '' THEN ?2 ELSE note || '; ' || ?2 END "
            "WHERE n = ?",
            risks,
        )

    def link(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Tie rows together: they are never divided."""
        self.change("INSERT INTO links VALUES (?, ?)", pairs)

    def where(self, number: int) -> str:
        """The place of a row, as `file:line`."""
        file, line = self.sql("SELECT file, line FROM rows WHERE n = ?", (number,)).fetchone()
        return f"{self._names[file]}:{line}"

    def content(self, number: int) -> Content:
        """What a kept row holds."""
        file, line, at, length = self.sql("SELECT file, line, at, content FROM rows WHERE n = ?", (number,)).fetchone()
        return self._content(file, line, at, length)

    def _content(self, file: int, line: int, at: int, length: int) -> Content:
        try:
            return unpack_content(self.memory.body(at, length), self._names[file], line)
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(self.memory.folder, error, whole=self.memory.folder) from error

    def contents(self, where: str = KEPT) -> Iterator[tuple[int, Content]]:
        """Number and content of the rows that fit a condition, in order."""
        query = f"SELECT n, file, line, at, content FROM rows WHERE {where} ORDER BY n"
        for number, *rest in self.sql(query):
            yield number, self._content(*rest)

    def texts(
        self, where: str = KEPT, numbers: Sequence[int] | None = None, more: str = "NULL"
    ) -> Iterator[tuple[int, Any, str]]:
        """Number, one more thing in SQL, and what a reader sees of the rows that fit a condition, in order.

        Args:
            where: the condition.
            numbers: only these rows, whose numbers grow; all when not given.
            more: a column, or an expression of columns.
        """
        query = f"SELECT n, {more}, file, line, at, content FROM rows WHERE {where}"
        if numbers is None:
            chosen: Iterable[Any] = self.sql(f"{query} ORDER BY n")
        else:
            parts = (numbers[first : first + PARTS] for first in range(0, len(numbers), PARTS))
            chosen = (
                row for part in parts for row in self.sql(f"{query} AND n IN ({','.join(map(str, part))}) ORDER BY n")
            )
        for number, found, *rest in chosen:
            yield number, found, Row(self._content(*rest)).text

    def lines(self, where: str = KEPT) -> Iterator[bytes]:
        """The content of the rows that fit a condition as lines of JSON, in order, without their ends."""
        for file, line, at, length in self.sql(f"SELECT file, line, at, content FROM rows WHERE {where} ORDER BY n"):
            yield at_place(self.memory.body(at, length), self._names[file], line)

    def token_rows(self, where: str = KEPT) -> Iterator[tuple[int, int, float | None, list[tuple[bytes, bytes]]]]:
        """Number, file, rating, and ids and masks of the token rows of the rows that fit a condition, in order."""
        query = f"SELECT n, file, rating, at + content, pieces FROM rows WHERE {where} ORDER BY n"
        for number, file, rating, at, length in self.sql(query):
            yield number, file, rating, unpack_rows(self.memory.body(at, length))

    def source_of(self, file: int) -> int:
        """The number of the source that a file belongs to."""
        source: int = self.sql("SELECT source FROM files WHERE n = ?", (file,)).fetchone()[0]
        return source

    def name_of(self, file: int) -> str:
        """The name of a file."""
        return self._names[file]


@lru_cache
def _span(lengths: str, step: int) -> tuple[int, int]:
    """Where the signature of a step begins among all, and its length."""
    sizes = lengths_of(lengths)
    return sum(sizes[:step]), sizes[step]


class LiveRows:
    """The rows that are still kept, as a set step sees them."""

    def __init__(self, table: Table, step: int) -> None:
        self._table, self._step = table, step

    def __len__(self) -> int:
        count: int = self._table.sql(f"SELECT count(*) FROM rows WHERE {KEPT}").fetchone()[0]
        return count

    def signatures(self) -> Iterator[tuple[int, bytes]]:
        """Number and signature of each row, in order."""
        found = self._table.sql(f"SELECT n, at + content + pieces, signatures FROM rows WHERE {KEPT} ORDER BY n")
        while rows := found.fetchmany(PARTS):
            spans = []
            for _, at, lengths in rows:
                before, size = _span(lengths, self._step)
                spans.append((at + before, size))
            yield from zip([number for number, *_ in rows], self._table.memory.bodies(spans), strict=True)

    def row(self, number: int) -> Row:
        """One row."""
        return Row(self._table.content(number))

    def some(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Several rows, in the order of their numbers, which grow."""
        for first in range(0, len(numbers), PARTS):
            part = numbers[first : first + PARTS]
            for _, content in self._table.contents(f"n IN ({','.join(map(str, part))})"):
                yield Row(content)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """All rows, in order."""
        return ((number, Row(content)) for number, content in self._table.contents())
