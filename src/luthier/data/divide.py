"""Giving every kept row its side, on the table of the curation."""

from luthier.data.folds import fold_up
from luthier.data.split import BITS, bounds, clusters
from luthier.data.table import KEPT, Table
from luthier.errors import DataError
from luthier.recipe import Split

FEW_ROWS, FEW_SHARE, MANY_SHARE = 2_000, 0.1, 0.05
FLOOR_ROWS, FLOOR_SHARE = 100, 0.2
"""So many rows are held out at least, but never more than this share for it."""
LARGE = 2.0
"""A cluster with this many times the rows that are to be held out is not held out."""
STRATUM = 20
"""A source with so many clusters has at least one of them held out."""


def share_of(split: Split, rows: int) -> float:
    """The share that is held out for validation: the recipe's, or by the number of rows."""
    if split.validation is not None:
        return split.validation
    usual = FEW_SHARE if rows < FEW_ROWS else MANY_SHARE
    return max(usual, min(FLOOR_ROWS / max(rows, 1), FLOOR_SHARE))


def divide(table: Table, split: Split) -> None:
    """Give every kept row its side.

    Raises:
        DataError: all rows belong together, so there is nothing to divide.
    """
    prompts = table.sql(f"SELECT count(DISTINCT place) FROM rows WHERE {KEPT}").fetchone()[0]
    _join(table)
    rows = table.sql(f"SELECT count(*) FROM rows WHERE {KEPT}").fetchone()[0]
    validation, test = share_of(split, rows), split.test or 0.0
    order = "ORDER BY max(moment) DESC, place" if split.time else "ORDER BY place"
    table.sql("CREATE TEMP TABLE places (rank INTEGER PRIMARY KEY, place UNIQUE)")
    chosen = f"SELECT place FROM rows WHERE {KEPT} GROUP BY place {order}"
    table.sql(f"INSERT INTO places (place) {chosen}")
    count = _count(table)
    if prompts < 2:
        raise DataError(
            f"one distinct prompt cannot be divided into training and validation: all {rows} kept rows "
            "begin with the same user turn",
            fix="add rows with other prompts",
        )
    if count < 2:
        raise DataError(
            f"nothing can be held out: all {rows} kept rows are near duplicates of one another or share data.split.by",
            fix="add other rows, or raise data.curate.near_duplicates.threshold (null turns that step off)",
        )
    if split.time:
        _by_rank(table, count, validation, test)
    elif split.folds:
        fold_up(table, split.folds, split.held)
    else:
        _by_place(table, validation, test, rows)
    table.sql("DROP TABLE places")


def _count(table: Table) -> int:
    count: int = table.sql("SELECT count(*) FROM places").fetchone()[0]
    return count


def _join(table: Table) -> None:
    """Move all places of a cluster onto one: rows that were found close, and rows that share the recipe's field."""
    linked = "SELECT a.place, b.place FROM links JOIN rows a ON a.n = links.a JOIN rows b ON b.n = links.b "
    tied = "SELECT DISTINCT min(place) OVER (PARTITION BY tie), place FROM rows WHERE tie IS NOT NULL"
    where = f"WHERE a.{KEPT} AND b.{KEPT}"
    pairs = (pair for query in (linked + where, f"{tied} AND {KEPT}") for pair in table.sql(query))
    moved = [(to, place) for place, to in clusters(pairs).items() if to != place]
    if moved:
        table.sql("CREATE INDEX IF NOT EXISTS row_places ON rows (place)")
        table.change(f"UPDATE rows SET place = ? WHERE place = ? AND {KEPT}", moved)


def _by_place(table: Table, validation: float, test: float, rows: int) -> None:
    """By where clusters fall; one that is far larger than what is to be held out is trained on."""
    most = max(1.0, LARGE * validation * rows)
    counted = f"SELECT place FROM rows WHERE {KEPT} GROUP BY place HAVING count(*) > ?"
    if table.sql(f"SELECT count(*) FROM ({counted})", (most,)).fetchone()[0] <= _count(table) - 2:
        table.sql(f"DELETE FROM places WHERE place IN ({counted})", (most,))
    lowest, highest = table.sql("SELECT min(place), max(place) FROM places").fetchone()
    bound = max(lowest + 1, int(validation * (1 << BITS)))
    near = "SELECT min(place) FROM places WHERE place >= ? UNION SELECT max(place) FROM places WHERE place < ?"
    known = {place for (place,) in table.sql(near, (bound, highest)) if place is not None}
    first, second = bounds(sorted(known | {lowest, highest}), validation, test)
    side = "CASE WHEN place < ? THEN 'validation' WHEN place < ? THEN 'test' ELSE 'train' END"
    table.sql(f"UPDATE rows SET side = 'train' WHERE {KEPT}")
    small = "place IN (SELECT place FROM places)"
    table.sql(f"UPDATE rows SET side = {side} WHERE {KEPT} AND {small}", (first, second))
    _hold_out_of_each_source(table)


def _by_rank(table: Table, count: int, validation: float, test: float) -> None:
    """The latest clusters to test, those before them to validation."""
    last = min(max(1, round(test * count)), count - 2) if test and count > 2 else 0
    held = min(last + max(1, round(validation * count)), count - 1)
    rank = "(SELECT rank FROM places WHERE places.place = rows.place)"
    side = f"CASE WHEN {rank} <= ? THEN 'test' WHEN {rank} <= ? THEN 'validation' ELSE 'train' END"
    table.sql(f"UPDATE rows SET side = {side} WHERE {KEPT}", (last, held))


def _hold_out_of_each_source(table: Table) -> None:
    """Move the lowest place of a source that has enough of them, and none held out, to validation."""
    found = table.sql(
        "SELECT min(place) FROM rows JOIN places USING (place) JOIN files ON files.n = rows.file "
        "WHERE fate = 'kept' GROUP BY source HAVING sum(side = 'validation') = 0 AND count(DISTINCT place) >= ?",
        (STRATUM,),
    ).fetchall()
    table.change(f"UPDATE rows SET side = 'validation' WHERE place = ? AND {KEPT}", found)
