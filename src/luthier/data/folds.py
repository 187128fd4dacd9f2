"""Folds: all kept rows in k parts of about equal size, so that few rows can be validated on all of them in turn.

Groups of the split stay whole. Within each source groups lie in the order of their places (a hash), and the folds are
equal stretches of that order: so every source is in all folds, and a row that is added moves no more than the few
groups that lie on a border.
"""

from luthier.data.table import KEPT, Table
from luthier.errors import DataError
from luthier.types import Json

TURN = 0.6180339887498949
"""The golden ratio's fraction: sources begin at places of the circle that are far apart, however many there are. So
sources with fewer groups than folds do not all fall into the same ones."""
ORDERS = (("source", "size"), ("1", "size"), ("1", "1"))
"""What to balance: rows within each source; where that leaves a fold empty, rows of all sources together; where one
group is too large even for that, groups."""


def by_fold(folds: int) -> str:
    """A row's fold in SQL as a side, of which the last one is called `train`."""
    return f"CASE fold WHEN {int(folds)} THEN 'train' ELSE fold END"


def fold_up(table: Table, folds: int, held: int) -> None:
    """Give every kept row its fold, and its side: the fold `held` (from 1 on) is validation, the others train.

    The division joins what belongs together before: rows of a group have the same `place`.

    Raises:
        DataError: there are fewer groups than folds.
    """
    table.sql(
        "CREATE TEMP TABLE grouped AS SELECT place, count(*) AS size, min(source) AS source "
        f"FROM rows JOIN files ON files.n = rows.file WHERE {KEPT} GROUP BY place"
    )
    (groups,) = table.sql("SELECT count(*) FROM grouped").fetchone()
    if groups < folds:
        raise DataError(
            f"{groups} groups of rows that belong together cannot be divided into {folds} folds",
            fix=f"set data.split.folds to {groups} or less, or add rows with other prompts",
        )
    table.sql("CREATE INDEX IF NOT EXISTS row_places ON rows (place)")
    for within, weight in ORDERS:
        _deal(table, folds, within, weight)
        (filled,) = table.sql(f"SELECT count(DISTINCT fold) FROM rows WHERE {KEPT}").fetchone()
        if filled == folds:
            break
    table.sql("DROP TABLE grouped")
    table.sql(f"UPDATE rows SET side = CASE fold WHEN ? THEN 'validation' ELSE 'train' END WHERE {KEPT}", (held,))


def _deal(table: Table, folds: int, within: str, weight: str) -> None:
    """Folds by where the middle of a group lies among all groups of its kind, on a circle that begins at `TURN`."""
    table.sql("DROP TABLE IF EXISTS dealt")
    at = (
        f"(sum({weight}) OVER (PARTITION BY {within} ORDER BY place) - {weight} / 2.0)"
        f" / sum({weight}) OVER (PARTITION BY {within})"
    )
    turned = f"{at} + {TURN} * source" if within == "source" else at
    table.sql(
        "CREATE TEMP TABLE dealt AS SELECT place, 1 + CAST(? * around AS INTEGER) % ? AS fold "
        f"FROM (SELECT place, {turned} AS around FROM grouped)",
        (folds, folds),
    )
    table.sql("CREATE UNIQUE INDEX dealt_places ON dealt (place)")
    table.sql(f"UPDATE rows SET fold = (SELECT fold FROM dealt WHERE dealt.place = rows.place) WHERE {KEPT}")


def count_folds(table: Table, folds: int) -> list[Json]:
    """Rows, groups and tokens of each fold."""
    query = (
        "SELECT count(*), count(DISTINCT place), total(tokens), total(trained) FROM rows "
        f"WHERE {KEPT} AND fold = ? GROUP BY fold"
    )
    names = ("rows", "groups", "tokens", "trained_tokens")
    counted = ((fold, table.sql(query, (fold,)).fetchone()) for fold in range(1, folds + 1))
    return [{"fold": fold, **{name: int(n) for name, n in zip(names, row, strict=True)}} for fold, row in counted]
