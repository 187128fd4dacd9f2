"""Review in the pipeline: where verdicts lie, which rows wait for one, and what keeps training from starting."""

import json
from collections.abc import Sequence
from pathlib import Path

from luthier.data.exchange import Row
from luthier.data.ledger import Entry
from luthier.data.review import Outlook, draw_sample, outlook, reviewable
from luthier.data.verdicts import Drawn, Verdict, read_verdicts
from luthier.errors import ReviewNeeded
from luthier.recipe import Review
from luthier.types import Json

SIDES = ("train", "validation", "test")


def verdicts_file(store: Path) -> Path:
    """The file that holds the verdicts of all runs beside it."""
    return store.parent / "verdicts.jsonl"


def to_see(dataset: Path, verdicts: dict[str, Verdict], size: int) -> list[tuple[Entry, Drawn]]:
    """The rows of the sample on which there is no verdict, in the order in which to look at them."""
    return [(e, drawn) for e, drawn in draw_sample(reviewable(dataset), size) if e.content not in verdicts]


def with_content(dataset: Path, chosen: Sequence[tuple[Entry, Drawn]]) -> list[Row]:
    """The rows with what they hold."""
    wanted = {(entry.source, entry.line) for entry, _ in chosen}
    found: dict[tuple[str, int], Json] = {}
    for side in SIDES:
        path = dataset / f"{side}.jsonl"
        if not path.exists():
            continue
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                row = json.loads(line)
                if (row["source"], row["line"]) in wanted:
                    found[row["source"], row["line"]] = row
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
        f"{found.defects} of {found.seen} rows drawn at random had a defect" if found.seen else "no row was seen yet"
    )
    bound = f"so up to {found.high:.1%} of all may have one, and data.review.limit is {found.limit:.1%}"
    if found.more is None:
        fix = "mend the data: no number of further good rows would bring the share below the limit"
    else:
        fix = f"luthier review: {found.more} more good rows would do"
    raise ReviewNeeded(f"training waits for a review: {share}, {bound}", where=str(dataset), fix=fix)
