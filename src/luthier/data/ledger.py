"""The ledger: one line for each row read, with what became of it and why; and what is counted from it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.artifact import ASIDE, damaged, disk_error
from luthier.data.table import Table
from luthier.errors import DataError
from luthier.types import Json

DUPLICATES = ("duplicate", "near_duplicate")
"""Fates that are no fault of the data."""
NOT_COUNTED = ("unwanted", "not_drawn", "held_out", "rejected_in_review", *DUPLICATES)
"""Fates that are no reason to stop: the row was sound, and left out on purpose."""
LINE = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: `json.dumps` makes one at each call."""
BUFFER = 1 << 20
"""Bytes that are written at once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row and what became of it."""

    source: str
    line: int
    hash: str
    shape: str | None
    fate: str
    rule: str
    reason: str
    score: float | None
    duplicate_of: str | None
    split: str | None
    tokens: int | None
    trained: int | None
    risk: float
    note: str
    content: str = ""
    """The hash of what the row holds after curation, to which verdicts are bound."""
    fold: int | None = None
    """The fold that a kept row is in, where the recipe asks for folds."""
    unread: Sequence[str] = ()
    """The fields of the row that nothing reads."""

    @property
    def where(self) -> str:
        """The place of the row, as `file:line`."""
        return f"{self.source}:{self.line}"


def entries(table: Table) -> Iterator[Json]:
    """The lines of the ledger, in order."""
    query = (
        "SELECT file, line, hash, shape, fate, rule, reason, score, kept, side, tokens, trained, risk, note, mark, "
        "fold, unread FROM rows ORDER BY n"
    )
    for file, line, mark, shape, fate, rule, reason, score, kept, side, *more in table.sql(query):
        tokens, trained, risk, note, held, fold, left = more
        yield {
            "source": table.name_of(file),
            "line": line,
            "hash": mark.hex(),
            "shape": shape,
            "fate": fate,
            "rule": rule,
            "reason": reason,
            "score": score,
            "duplicate_of": None if kept is None else table.where(kept),
            "split": side,
            "tokens": tokens,
            "trained": trained,
            "risk": risk,
            "note": note,
            "content": held.hex(),
            "fold": fold,
            "unread": left.split("\n") if left else [],
        }


def read_ledger(folder: Path) -> Iterator[Entry]:
    """The entries of the ledger in the folder of a dataset artifact, one by one.

    Raises:
        DataError: there is no ledger, or it is damaged.
    """
    path = folder / "ledger.jsonl"
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield Entry(**json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from error


def count_fates(table: Table) -> dict[str, int]:
    """Rows by fate: `kept` first, the others by count. The counts add up to the rows read."""
    counts = dict(table.sql("SELECT fate, count(*) FROM rows GROUP BY fate"))
    rest = sorted((name for name in counts if name != "kept"), key=lambda name: (-counts[name], name))
    return {"kept": counts.get("kept", 0), **{name: counts[name] for name in rest}}


def first_reasons(table: Table) -> dict[str, str]:
    """One example of each fate but `kept`: the place of the first such row and why."""
    found = table.sql("SELECT fate, min(n), reason FROM rows WHERE fate != 'kept' GROUP BY fate ORDER BY min(n)")
    return {fate: f"{table.where(number)}: {reason}" for fate, number, reason in found.fetchall()}


def count_unread(table: Table, source: int) -> dict[str, int]:
    """The fields of a source that nothing reads, and in how many rows each has something: the most common first."""
    asked = "SELECT unread, count(*) FROM rows JOIN files ON files.n = rows.file WHERE source = ? GROUP BY unread"
    counts: Counter[str] = Counter()
    for names, rows in table.sql(asked, (source,)):
        for name in names.split("\n") if names else ():
            counts[name] += rows
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def funnel(table: Table, order: Sequence[str]) -> list[Json]:
    """What each rule took and how many rows it left, in the order in which rows met the rules."""
    found = table.sql("SELECT rule, count(*) FROM rows WHERE fate != 'kept' GROUP BY rule").fetchall()
    taken, left = dict(found), table.count
    made: list[Json] = []
    for rule in (*order, *sorted(taken.keys() - set(order))):
        if rule in taken:
            left -= taken[rule]
            made.append({"rule": rule, "rows": taken[rule], "left": left})
    return made


def measure(table: Table, where: str) -> dict[str, int]:
    """Rows and tokens of the rows that fit a condition."""
    query = "SELECT count(*), total(tokens), total(trained), max(longest) FROM rows WHERE " + where
    rows, tokens, trained, longest = table.sql(query).fetchone()
    return {"rows": rows, "tokens": int(tokens), "trained_tokens": int(trained), "longest": longest or 0}


def check_rejected(table: Table, most: float) -> None:
    """Stop when too large a share of the rows is unusable, or none is left. Duplicates are no fault of the data.

    Raises:
        DataError: with the count of each fate and an example of it.
    """
    fates = count_fates(table)
    unusable = table.count - fates["kept"] - sum(fates.get(name, 0) for name in NOT_COUNTED)
    if fates["kept"] and unusable <= most * table.count:
        return
    reasons = first_reasons(table)
    lines = [f"  {name} {count}, for example {reasons[name]}" for name, count in fates.items() if name in reasons]
    share = f"{unusable} of {table.count} rows ({unusable / table.count:.1%}) cannot be used"
    if unusable > most * table.count:
        what = f"{share}, and data.max_rejected allows {most:.1%}:"
    else:
        what = f"no row is left to train on; {share}:"
    divided = "; set data.too_long=split to divide the plain texts that are too long" if splittable(table) else ""
    fix = "mend the rows, or raise data.max_rejected if they may be left out"
    raise DataError("\n".join((what, *lines)), fix=fix + divided)


def splittable(table: Table) -> int:
    """Plain texts that were left out because they are too long: `data.too_long` may divide them."""
    found: int = table.sql("SELECT count(*) FROM rows WHERE fate = 'too_long' AND shape = 'text'").fetchone()[0]
    return found


def write_json(path: Path, rows: Iterable[Any]) -> int:
    """Write JSON values one a line, a whole file or none; how many they were.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    return write_lines(path, (LINE(row).encode() for row in rows))


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines, which come without their ends, a whole file or none; how many they were.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    aside = path.with_name(path.name + ASIDE)
    count = 0
    try:
        with aside.open("wb", BUFFER) as file:
            for line in lines:
                file.write(line)
                file.write(b"\n")
                count += 1
        aside.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        aside.unlink(missing_ok=True)
    return count
