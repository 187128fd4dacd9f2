"""Sources as shards of rows, and which rows of a shard were seen before."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from luthier.artifact import digest
from luthier.data.memory import Memory, Packed, Remembered, packed
from luthier.data.outcome import Workshop
from luthier.data.raw import RawRow, Unread
from luthier.data.read import Files, scan
from luthier.data.shapes import Reading
from luthier.data.spread import Spread
from luthier.data.table import Place, Table

ROWS, BYTES = 1_000, 4 << 20

Task = tuple[list[RawRow | Unread], Reading]


@dataclass(frozen=True, slots=True)
class Feed:
    """A source: its number in the recipe, its files, and how they are read."""

    number: int
    files: Files
    passage: int
    reading: Reading


@dataclass(slots=True)
class Shard:
    """Some rows of a source, with what is known of them by key."""

    feed: Feed
    rows: list[RawRow | Unread] = field(default_factory=list)
    size: int = 0
    keys: list[bytes] = field(default_factory=list)
    known: dict[bytes, Remembered] = field(default_factory=dict)
    fresh: dict[bytes, RawRow | Unread] = field(default_factory=dict)

    def recall(self, memory: Memory) -> None:
        """Look up what is known of the rows."""
        mark = bytes.fromhex(digest(asdict(self.feed.reading)))
        self.keys = [_key(row, mark) for row in self.rows]
        self.known = memory.look_up(self.keys)
        self.fresh = {key: row for key, row in zip(self.keys, self.rows, strict=True) if key not in self.known}


def _key(row: RawRow | Unread, mark: bytes) -> bytes:
    document = row.document if isinstance(row, RawRow) else None
    named = b"" if document is None else document.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(bytes.fromhex(row.digest) + named, key=mark, digest_size=16).digest()


def _shards(feed: Feed) -> Iterator[Shard]:
    shard = Shard(feed)
    for path, name in feed.files.files:
        for row in scan(path, name, feed.passage, alone=len(feed.files.files) == 1):
            shard.rows.append(row)
            shard.size += len(row.body) if isinstance(row, Unread) else row.size
            if len(shard.rows) >= ROWS or shard.size >= BYTES:
                yield shard
                shard = Shard(feed)
    if shard.rows:
        yield shard


def work_on(workshop: Workshop, task: Task) -> Packed:
    """The outcomes of rows that are seen for the first time."""
    rows, reading = task
    return packed(workshop.work(rows, reading) if rows else [])


def take_in(feeds: Sequence[Feed], table: Table, workshop: Workshop) -> Iterator[int]:
    """Work on all rows of the sources and put them into the table; yields how many there are, shard by shard."""
    memory = table.memory

    def tasks() -> Iterator[tuple[Shard, Task, int]]:
        for feed in feeds:
            for shard in _shards(feed):
                shard.recall(memory)
                yield shard, (list(shard.fresh.values()), feed.reading), shard.size if shard.fresh else 0

    with Spread(work_on, workshop) as spread:
        for shard, outcomes in spread.map(tasks()):
            known = shard.known | memory.keep(list(shard.fresh), outcomes)
            table.add(
                (Place(shard.feed.number, row.source, row.line, row.digest), known[key])
                for row, key in zip(shard.rows, shard.keys, strict=True)
            )
            yield table.count
