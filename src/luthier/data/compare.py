"""Reading ledgers: the story of one row, and what became of rows otherwise in another curation."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from luthier.data.ledger import Entry, read_ledger
from luthier.data.written import rows_at
from luthier.errors import DataError
from luthier.types import Json

SHOWN = 5
"""Changed rows that are shown of each kind of change."""
HASH_LETTERS = 8
"""A hash may be given by so many of its first letters, or more."""


@dataclass(frozen=True, slots=True)
class Story:
    """One row, what it became, and the rows that it stands for."""

    entry: Entry
    content: Json | None
    stands_for: list[str]

    def to_json(self) -> Json:
        """The story as one JSON object."""
        return {**asdict(self.entry), "content": self.content, "stands_for": self.stands_for}


def explain(folder: Path, wanted: str) -> list[Story]:
    """The rows that a person means by `file:line` or by the first letters of a hash; rows may share a hash.

    Raises:
        DataError: the ledger of the artifact has no such row.
    """
    found: list[Entry] = []
    behind: dict[str, list[str]] = defaultdict(list)
    by_hash = len(wanted) >= HASH_LETTERS and not wanted.lower().strip("0123456789abcdef")
    for entry in read_ledger(folder):
        if entry.where == wanted or (by_hash and entry.hash.startswith(wanted.lower())):
            found.append(entry)
        if entry.duplicate_of is not None:
            behind[entry.duplicate_of].append(entry.where)
    if not found:
        raise DataError(
            f"there is no row '{wanted}' in the ledger",
            where=str(folder / "ledger.jsonl"),
            fix="give the row as FILE:LINE, with the file as the recipe names it, or the first 8 letters of its hash",
        )
    sides = {entry.split for entry in found if entry.split}
    contents = rows_at(folder, {(entry.source, entry.line) for entry in found}, sides)
    return [Story(entry, contents.get((entry.source, entry.line)), behind[entry.where]) for entry in found]


@dataclass(slots=True)
class Change:
    """Rows whose fate or side changed in the same way, with the first of them."""

    before: str
    after: str
    rows: int = 0
    examples: list[Json] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """What two curations made of their rows."""

    same: int
    changes: list[Change]
    added: dict[str, int]
    gone: dict[str, int]

    def to_json(self) -> Json:
        """The difference as one JSON object."""
        return asdict(self)


def compare(old: Path, new: Path) -> Difference:
    """Which rows changed their fate or side from one dataset artifact to another, and why.

    Rows are the same when the same stands in them, wherever that is; of equal rows the first is compared with the
    first, the second with the second.
    """
    before = dict(_numbered(old))
    changes: dict[tuple[str, str], Change] = {}
    added: Counter[str] = Counter()
    same = 0
    for key, entry in _numbered(new):
        earlier = before.pop(key, None)
        if earlier is None:
            added[_state(entry)] += 1
        elif _state(earlier) == _state(entry) or _undivided(earlier, entry):
            same += 1
        else:
            names = (_state(earlier), _state(entry))
            change = changes.setdefault(names, Change(*names))
            change.rows += 1
            if len(change.examples) < SHOWN:
                change.examples.append({"row": entry.where, "before": _why(earlier), "after": _why(entry)})
    gone = Counter(_state(entry) for entry in before.values())
    ordered = sorted(changes.values(), key=lambda change: (-change.rows, change.before, change.after))
    return Difference(same, ordered, dict(added.most_common()), dict(gone.most_common()))


def _numbered(folder: Path) -> Iterator[tuple[tuple[bytes, int], Entry]]:
    seen: Counter[bytes] = Counter()
    for entry in read_ledger(folder):
        mark = bytes.fromhex(entry.hash)
        seen[mark] += 1
        yield (mark, seen[mark]), entry


def _state(entry: Entry) -> str:
    return entry.split or entry.fate


def _undivided(one: Entry, other: Entry) -> bool:
    """Two kept rows of which one has no side: its curation was refused before the division."""
    return one.fate == other.fate == "kept" and None in (one.split, other.split)


def _why(entry: Entry) -> str:
    return entry.reason or (f"kept for {entry.split}" if entry.split else "kept")
