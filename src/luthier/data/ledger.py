"""The ledger: one entry for each row read, and what is counted from it."""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from luthier.artifact import disk_error
from luthier.data.split import Side
from luthier.errors import DataError
from luthier.text import TrainingRow
from luthier.types import KEPT, Example, Fate, Json


@dataclass(slots=True)
class Entry:
    """One row and what became of it. Token ids are held as arrays: a list of ints takes eight times the memory."""

    source: str
    line: int
    digest: str
    shape: str | None
    fate: Fate
    example: Example | None = None
    side: Side | None = None
    tokens: int | None = None
    trained: int | None = None
    rows: "list[tuple[array[int], bytes]]" = field(default_factory=list)

    @property
    def where(self) -> str:
        """The place of the row, as `file:line`."""
        return f"{self.source}:{self.line}"

    def keep_rows(self, rows: Sequence[TrainingRow]) -> None:
        """Remember the tokens."""
        self.rows = [(array("i", row.ids), bytes(row.trained)) for row in rows]

    def reject(self, fate: Fate) -> None:
        """Give the row its fate; what only kept rows need is let go."""
        self.fate, self.example, self.rows = fate, None, []

    def to_json(self) -> Json:
        """The entry as a line of `ledger.jsonl`."""
        return {
            "source": self.source,
            "line": self.line,
            "hash": self.digest,
            "shape": self.shape,
            "fate": self.fate.name,
            "reason": self.fate.reason,
            "duplicate_of": self.fate.duplicate_of,
            "split": self.side,
            "tokens": self.tokens,
            "trained": self.trained,
        }


class KeptRows(Sequence[TrainingRow]):
    """The token rows of entries, unpacked one at a time."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.rows = [row for entry in entries for row in entry.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> TrainingRow: ...
    @overload
    def __getitem__(self, i: slice) -> list[TrainingRow]: ...
    def __getitem__(self, i: int | slice) -> TrainingRow | list[TrainingRow]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        ids, mask = self.rows[i]
        return TrainingRow(list(ids), list(map(bool, mask)))


def kept(entries: Iterable[Entry]) -> list[Entry]:
    """The entries that go on."""
    return [entry for entry in entries if entry.fate.kept]


def count_fates(entries: Sequence[Entry]) -> dict[str, int]:
    """Rows by fate: `kept` first, the others by count. The counts add up to the rows read."""
    counts = Counter(entry.fate.name for entry in entries)
    rest = sorted((name for name in counts if name != KEPT.name), key=lambda name: (-counts[name], name))
    return {KEPT.name: counts[KEPT.name], **{name: counts[name] for name in rest}}


def first_reasons(entries: Iterable[Entry]) -> dict[str, str]:
    """One example of each fate but `kept`: the place of the first such row and why."""
    reasons: dict[str, str] = {}
    for entry in entries:
        if not entry.fate.kept:
            reasons.setdefault(entry.fate.name, f"{entry.where}: {entry.fate.reason}")
    return reasons


def measure(entries: Sequence[Entry]) -> dict[str, int]:
    """Rows and tokens of kept entries."""
    lengths = [entry.tokens or 0 for entry in entries]
    return {
        "rows": len(entries),
        "tokens": sum(lengths),
        "trained_tokens": sum(entry.trained or 0 for entry in entries),
        "longest": max(lengths, default=0),
    }


def check_rejected(entries: Sequence[Entry], most: float) -> None:
    """Stop when too large a share of the rows is unusable, or none is left. Duplicates are no fault of the data.

    Raises:
        DataError: with the count of each fate and an example of it.
    """
    fates = count_fates(entries)
    unusable = len(entries) - fates[KEPT.name] - fates.get("duplicate", 0)
    if fates[KEPT.name] and unusable <= most * len(entries):
        return
    reasons = first_reasons(entries)
    lines = [f"  {name} {count}, for example {reasons[name]}" for name, count in fates.items() if name in reasons]
    share = f"{unusable} of {len(entries)} rows ({unusable / len(entries):.1%}) cannot be used"
    if unusable > most * len(entries):
        what = f"{share}, and data.max_rejected allows {most:.1%}:"
    else:
        what = f"no row is left to train on; {share}:"
    raise DataError("\n".join((what, *lines)), fix="mend the rows, or raise data.max_rejected if they may be left out")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON values one a line.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise disk_error(path, error) from error
