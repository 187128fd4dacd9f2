"""Review in the pipeline: where verdicts lie, which rows wait for one, and what keeps training from starting."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.data.exchange import Row
from luthier.data.ledger import Entry
from luthier.data.review import Outlook, draw_sample, frame_of, outlook, reviewable
from luthier.data.verdicts import Drawn, Verdict, read_verdicts
from luthier.data.written import rows_at
from luthier.errors import ReviewNeeded
from luthier.recipe import Review


def verdicts_file(store: Path) -> Path:
    """The file that holds the verdicts of all runs beside it."""
    return store.parent / "verdicts.jsonl"


class Left(NamedTuple):
    """The rows of a sample on which there is no verdict, in the order in which to look at them.

    `frame` says what they are drawn from; `of` is how many rows the sample has.
    """

    rows: list[tuple[Entry, Drawn]]
    frame: str
    of: int


def to_see(dataset: Path, verdicts: Mapping[str, Verdict], size: int) -> Left:
    """What is left to look at of a sample of that size."""
    entries = reviewable(dataset)
    sample = draw_sample(entries, size, verdicts)
    return Left([(e, drawn) for e, drawn in sample if e.content not in verdicts], frame_of(entries), len(sample))


def with_content(dataset: Path, chosen: Sequence[tuple[Entry, Drawn]]) -> list[Row]:
    """The rows with what they hold."""
    found = rows_at(dataset, {(entry.source, entry.line) for entry, _ in chosen})
    return [
        (entry, drawn, found[entry.source, entry.line])
        for entry, drawn in chosen
        if (entry.source, entry.line) in found
    ]


def require(dataset: Path, store: Path, asked: Review) -> Outlook:
    """What the verdicts say of the dataset.

    Raises:
        ReviewNeeded: too few rows were seen, or too many of them had defects.
    """
    found = outlook(reviewable(dataset), read_verdicts(verdicts_file(store)), asked.limit)
    if found.passed:
        return found
    share = (
        f"{found.defects:,} of {found.seen:,} rows drawn at random had a defect, so up to {found.left:.1%} of what is "
        "left may have one"
        if found.seen
        else "no row was seen yet"
    )
    raise ReviewNeeded(
        f"training waits for a review: {share}, and data.review.limit is {found.limit:.1%}",
        where=str(dataset),
        fix=f"luthier review: {found.more:,} more good rows would do{mending(found)}",
    )


def mending(found: Outlook) -> str:
    """The other way out of too many defects, where some were found."""
    if not found.defects:
        return ""
    return (
        "; or mend what the bad rows have in common, in the source or by a rule of data.curate: rows are then drawn "
        "afresh, and those already seen stay known"
    )
