"""One row from the file to the tokens: as it was read, as a conversation, and what of it is trained.

`luthier inspect` shows it, the report holds twenty, and both read the same `RowView`.
"""

import heapq
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from luthier.data.ledger import Entry, read_ledger
from luthier.data.raw import RawRow
from luthier.data.read import find_files, scan
from luthier.data.step import Content
from luthier.data.written import rows_at
from luthier.errors import RecipeError, TemplateError
from luthier.recipe import Recipe
from luthier.text import Train, TrainingRow, render_batch, render_pair
from luthier.types import Example, Json, Pair

SAMPLED = 20
"""Rows in the report."""
LONGEST = 20_000
"""Letters of a row as it was read that are shown."""


class Piece(NamedTuple):
    """Some tokens in a row that are all trained or all not, and their text."""

    text: str
    trained: bool
    ids: list[int]


@dataclass(frozen=True, slots=True)
class RowView:
    """Everything there is to see of one row.

    `messages` are the turns that the row was read as (of a pair: the prompt), `text` what a plain text says; `rows` are
    its token rows, each as pieces. A row that was not kept has a fate and a reason in their place.
    """

    where: str
    fate: str
    reason: str
    side: str | None
    raw: str
    messages: list[Json]
    text: str | None
    rows: list[list[Piece]]

    @property
    def tokens(self) -> int:
        """Tokens in all its rows."""
        return sum(len(piece.ids) for row in self.rows for piece in row)

    @property
    def trained(self) -> int:
        """Trained tokens in all its rows."""
        return sum(len(piece.ids) for row in self.rows for piece in row if piece.trained)

    def to_json(self) -> Json:
        """The view as one JSON object."""
        rows = [[piece._asdict() for piece in row] for row in self.rows]
        return {**asdict(self), "rows": rows, "tokens": self.tokens, "trained": self.trained}


def choose(
    dataset: Path, *, row: str | None = None, at_random: int | None = None, worst: int | None = None, seed: int = 0
) -> list[Entry]:
    """The entries of the ledger that are meant.

    Args:
        dataset: the folder of a dataset artifact.
        row: a line of the first source, or `file:line`.
        at_random: so many kept rows, the same ones for the same seed.
        worst: the kept rows with the smallest share of trained tokens.
        seed: of the choice.

    Raises:
        RecipeError: there is no such row.
    """
    if row is not None:
        source, _, line = row.rpartition(":")
        if not line.isdecimal():
            raise RecipeError(f"'{row}' is no row", fix="give a line such as 17, or a file and a line: rows.jsonl:17")
        for entry in read_ledger(dataset):
            if entry.line == int(line) and (not source or source in (entry.source, Path(entry.source).name)):
                return [entry]
        raise RecipeError(f"there is no row {row}", fix="the ledger lists them: luthier curate shows where it is")
    kept = (entry for entry in read_ledger(dataset) if entry.fate == "kept")
    if worst is not None:
        return heapq.nsmallest(worst, kept, key=lambda entry: ((entry.trained or 0) / (entry.tokens or 1), entry.where))
    draw = random.Random(seed)
    drawn = heapq.nsmallest(at_random or 1, ((draw.random(), n, entry) for n, entry in enumerate(kept)))
    return [entry for _, _, entry in sorted(drawn, key=lambda item: item[1])]


def look_at(entries: Sequence[Entry], dataset: Path, recipe: Recipe, home: Path, tokenizer: Any) -> list[RowView]:
    """The views of these rows, in order.

    Args:
        entries: as `choose` found them.
        dataset: the folder of the dataset artifact.
        recipe: by which it was made.
        home: the recipe's folder.
        tokenizer: the model's.

    Raises:
        DataError: a file is gone.
    """
    wanted = {(entry.source, entry.line) for entry in entries}
    contents = _contents(dataset, wanted)
    raws = _raw(recipe, home, wanted)
    return [
        _view(
            entry, raws.get((entry.source, entry.line), ""), contents.get((entry.source, entry.line)), tokenizer, recipe
        )
        for entry in entries
    ]


def write_samples(dataset: Path, recipe: Recipe, home: Path, tokenizer: Any) -> list[Json]:
    """Some rows of a fresh dataset, to be shown in the report."""
    chosen = choose(dataset, at_random=SAMPLED, seed=recipe.seed)
    return [view.to_json() for view in look_at(chosen, dataset, recipe, home, tokenizer)]


def _view(entry: Entry, raw: str, content: Content | None, tokenizer: Any, recipe: Recipe) -> RowView:
    shown = raw if len(raw) <= LONGEST else raw[:LONGEST] + f" ... and {len(raw) - LONGEST:,} more letters"
    messages: list[Json] = []
    text: str | None = None
    rows: list[list[Piece]] = []
    if content is not None:
        messages = [turn.to_json() for turn in (content.prompt if isinstance(content, Pair) else content.messages)]
        text = None if isinstance(content, Pair) else content.text
        rows = [pieces(row, tokenizer) for row in _render(content, tokenizer, recipe.data.train)]
    return RowView(entry.where, entry.fate, entry.reason, entry.split, shown, messages, text, rows)


def _render(content: Content, tokenizer: Any, train: Train) -> Sequence[TrainingRow]:
    if isinstance(content, Pair):
        return render_pair(content, tokenizer)
    (found,) = render_batch([content], tokenizer, train=train)
    if isinstance(found, TemplateError):
        raise found
    return found


def pieces(row: TrainingRow, tokenizer: Any) -> list[Piece]:
    """A token row as stretches that are trained and such that are not."""
    found: list[Piece] = []
    start = 0
    for i in range(1, len(row.ids) + 1):
        if i == len(row.ids) or row.trained[i] != row.trained[start]:
            ids = row.ids[start:i]
            found.append(Piece(tokenizer.decode(ids), row.trained[start], ids))
            start = i
    return found


def _contents(dataset: Path, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], Content]:
    found = rows_at(dataset, wanted)
    return {place: Pair.from_json(row) if "chosen" in row else Example.from_json(row) for place, row in found.items()}


def _raw(recipe: Recipe, home: Path, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """The rows as they stand in their files."""
    left, names = set(wanted), {source for source, _ in wanted}
    found: dict[tuple[str, int], str] = {}
    for source in recipe.data.sources:
        for path, name in find_files(source.path, home).files:
            if name not in names:
                continue
            for row in scan(path, name, source.passage):
                place = (row.source, row.line)
                if place in left:
                    found[place] = (
                        _as_text(row.value) if isinstance(row, RawRow) else row.body.decode("utf-8", "replace")
                    )
                    left.discard(place)
                if not left:
                    return found
    return found


def _as_text(value: Json | None) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
