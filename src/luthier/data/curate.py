"""From raw rows to a dataset: every row is read, looked at, compared, given its side, and written with its fate.

In order: read -> shape and roles -> row steps -> rendering (all in `outcome.py`, remembered by content) -> length ->
set steps -> division. Rows lie on disk from the first to the last, so memory does not grow with their number.
"""

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from luthier.artifact import write_text
from luthier.data.apply import apply_verdicts
from luthier.data.card import card
from luthier.data.folds import count_folds
from luthier.data.funnel import funnel_picture
from luthier.data.ledger import (
    check_rejected,
    count_fates,
    count_unread,
    entries,
    first_reasons,
    funnel,
    measure,
    splittable,
    write_json,
)
from luthier.data.memory import Memory, open_memory
from luthier.data.outcome import Workshop
from luthier.data.prove import divide_and_prove, twins_of_held_out
from luthier.data.read import Files, find_files
from luthier.data.rendering import Wanted
from luthier.data.shapes import Reading
from luthier.data.shard import Feed, take_in
from luthier.data.split import SIDES
from luthier.data.step import EvaluationItem, Surroundings
from luthier.data.table import KEPT, LiveRows, Table
from luthier.data.verdicts import Verdict
from luthier.data.write import draw, write_failures, write_side
from luthier.errors import DataError, RecipeError
from luthier.recipe import Recipe
from luthier.text import RowWriter
from luthier.text.lengths import costs, suggested
from luthier.types import Fate, Json

BUNDLED = "ukulele"
PASSAGE = 4_000
Progress = Callable[[int, int, str], None]


def curate(
    recipe: Recipe,
    recipe_folder: Path,
    tokenizer: Any,
    context: int,
    out: Path,
    *,
    memory: Path | None = None,
    evaluation: Sequence[EvaluationItem] = (),
    verdicts: Mapping[str, Verdict] = MappingProxyType({}),
    refused: Path | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Read, check, compare, render and divide the recipe's rows.

    Args:
        recipe: what is wanted.
        recipe_folder: the folder of the recipe, where relative paths are looked for first.
        tokenizer: the model's tokenizer with its chat template.
        context: the longest row the model can take, in tokens.
        out: an existing folder, in which `ledger.jsonl`, the rows of all sides and `facts.json` are written.
        memory: a folder in which work on rows is remembered from one time to the next.
        evaluation: the items that the model will be judged by.
        verdicts: what people said of rows, by the hash of their content: rejected rows go, edited ones are replaced.
        refused: the file for the ledger when curation is refused, `ledger.jsonl` in `out` when not given.
        progress: told of rows done, rows in all (0 while that is not known) and what is being done.

    Returns:
        The content of `facts.json`.

    Raises:
        RecipeError: `data.max_length` is longer than the model's context.
        DataError: a file or too many rows cannot be used, or there is nothing to divide.
    """
    limit = _limit(recipe.data.max_length, context)
    around = Surroundings(recipe_folder, tuple(evaluation), recipe.seed)
    split = recipe.data.split
    wanted = Wanted(recipe.data.train, limit if recipe.data.too_long == "split" else None)
    workshop = Workshop(recipe.data.curate, around, tokenizer, context, split.by, split.time, wanted)
    feeds = _feeds(recipe, recipe_folder)
    with open_memory(memory, workshop.fingerprint()) as held, Table(held, out) as table:
        reports = _work_through(table, feeds, workshop, limit, progress=progress)
        apply_verdicts(table, workshop, verdicts, limit)
        try:
            if recipe.data.too_long == "error":
                _check_long(table)
            _draw(table, [source.weight for source in recipe.data.sources])
            check_rejected(table, recipe.data.max_rejected)
            progress(table.count, table.count, "dividing")
            proof = divide_and_prove(table, split)
        except DataError as error:  # the ledger shows what to mend
            place = refused or out / "ledger.jsonl"
            write_json(place, entries(table))
            fix = f"{error.fix}; what became of each row, and why: {place}"
            raise DataError(error.what, where=error.where, fix=fix) from error
        write_json(out / "ledger.jsonl", entries(table))
        progress(table.count, table.count, "writing")
        facts = _facts(table, recipe, workshop, feeds, out, limit) | {"steps": reports, "proof": proof}
        facts["replay"] = _replay(recipe, recipe_folder, workshop, held, table, out, limit)
        write_text(out / "funnel.svg", funnel_picture(facts))
        write_text(out / "README.md", card(table, recipe, facts))
    write_text(out / "facts.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts


def _limit(max_length: int | None, context: int) -> int:
    if max_length is not None and max_length > context:
        raise RecipeError(
            f"data.max_length is {max_length}, but the model's context is {context}",
            fix=f"set data.max_length to {context} or less, or leave it out",
        )
    return min(max_length or context, context)


def _feeds(recipe: Recipe, home: Path) -> list[Feed]:
    feeds = []
    for number, source in enumerate(recipe.data.sources):
        fields = {str(name): key for name, key in source.fields.items()}
        reading = Reading(source.shape, recipe.data.system, fields, source.scale, recipe.objective.rows)
        feeds.append(Feed(number, find_files(source.path, home), source.passage, reading))
    return feeds


def _work_through(
    table: Table, feeds: Sequence[Feed], workshop: Workshop, limit: int, *, progress: Progress
) -> dict[str, Json]:
    """Take in all rows, refuse those that are too long, and compare the rest; what the set steps report."""
    for count in take_in(feeds, table, workshop):
        progress(count, 0, "rows read")
    _refuse_long(table, limit)
    reports: dict[str, Json] = {}
    for i, step in enumerate(workshop.sets):
        progress(table.count, table.count, step.name.replace("_", " "))
        table.resolve(step.resolve(LiveRows(table, i)), step.name)
        if found := step.report():
            reports[step.name] = found
    return reports


def _refuse_long(table: Table, limit: int) -> None:
    reason = f"longest || ' tokens, the limit is {limit}'"
    change = f"UPDATE rows SET fate = 'too_long', rule = 'length', score = longest, reason = {reason} "
    table.sql(change + f"WHERE {KEPT} AND longest > ?", (limit,))


def _check_long(table: Table) -> None:
    """Refuse to go on when a row is too long: `data.too_long` is `error`."""
    asked = "SELECT n, reason FROM rows WHERE fate = 'too_long' AND rule = 'length' ORDER BY n LIMIT 1"
    if found := table.sql(asked).fetchone():
        first, reason = found
        fix = "shorten the row, raise data.max_length, or set data.too_long=drop"
        fix += ", or =split to divide plain texts" if splittable(table) else ""
        raise DataError(reason, where=table.where(first), fix=fix)


def _draw(table: Table, weights: Sequence[float]) -> None:
    """Leave rows of sources with a weight below 1 out, by a hash of what stands in them."""
    for number, weight in enumerate(weights):
        if weight < 1:
            query = f"SELECT rows.n FROM rows JOIN files ON files.n = rows.file WHERE {KEPT} AND source = ?"
            left = [(n,) for (n,) in table.sql(query, (number,)).fetchall() if draw(table, n) >= weight]
            reason = f"'not drawn: the source has the weight {weight:g}'"
            table.change(f"UPDATE rows SET fate = 'not_drawn', rule = 'weight', reason = {reason} WHERE n = ?", left)


def _order(workshop: Workshop) -> list[str]:
    """The rules in the order in which rows meet them."""
    rows, sets = ([step.name for step in steps] for steps in (workshop.rows, workshop.sets))
    return ["read", "shape", *rows, "render", "length", *sets, "review", "weight"]


def _facts(
    table: Table, recipe: Recipe, workshop: Workshop, feeds: Sequence[Feed], out: Path, limit: int
) -> dict[str, Any]:
    weights, split = [source.weight for source in recipe.data.sources], recipe.data.split
    shapes = "SELECT shape, count(*) FROM rows WHERE shape IS NOT NULL GROUP BY shape ORDER BY 2 DESC, 1"
    return {
        "read": table.count,
        "fates": count_fates(table),
        "reasons": first_reasons(table),
        "funnel": funnel(table, _order(workshop)),
        "shapes": dict(table.sql(shapes)),
        "sources": [_source(table, feed) for feed in feeds],
        **({"folds": count_folds(table, split.folds), "fold": split.held} if split.folds else {}),
        **{side: write_side(out, side, table, weights) for side in SIDES if side != "test" or split.test},
        "failures": write_failures(out, table),
        "rows": recipe.objective.rows,
        "lengths": _lengths(table, limit) | {"splittable": splittable(table)},
        "smallest_shares": _smallest_shares(table),
        "whole_texts": _whole_texts(table),
        "context": limit,
        "system": recipe.data.system is not None,
    }


def _lengths(table: Table, limit: int) -> Json:
    """What each limit on the length would cost, and the smallest that costs hardly anything."""
    measured = table.sql(f"SELECT longest, trained FROM rows WHERE {KEPT} OR (fate = 'too_long' AND longest NOT NULL)")
    longest, trained = array("q"), array("q")
    for long, learned in measured:
        longest.append(long)
        trained.append(learned)
    found = costs(longest, trained, max(limit, max(longest, default=0)))
    return {"costs": [cost._asdict() for cost in found], "suggested": suggested(found, len(longest))}


def _smallest_shares(table: Table) -> list[Json]:
    """The kept rows of which the smallest share is trained."""
    asked = (
        f"SELECT n, tokens, trained FROM rows WHERE {KEPT} AND tokens > 0 ORDER BY 1.0 * trained / tokens, n LIMIT 5"
    )
    found = table.sql(asked).fetchall()
    return [{"row": table.where(n), "tokens": tokens, "trained": trained} for n, tokens, trained in found]


def _whole_texts(table: Table) -> int:
    """Plain texts that are trained whole; of those that hold a conversation only the answers are."""
    asked = f"SELECT count(*) FROM rows WHERE {KEPT} AND shape = 'text' AND (tokens - trained) * longest <= tokens"
    return int(table.sql(asked).fetchone()[0])


def _source(table: Table, feed: Feed) -> Json:
    query = "SELECT count(*), total(fate = 'kept') FROM rows JOIN files ON files.n = rows.file WHERE source = ?"
    rows, kept = table.sql(query, (feed.number,)).fetchone()
    made = {"path": feed.files.source, "sha256": feed.files.digest(), "rows": rows, "kept": int(kept)}
    return made | {"left_out": list(feed.files.left_out), "unread": count_unread(table, feed.number)}


def _replay(
    recipe: Recipe, home: Path, workshop: Workshop, memory: Memory, data: Table, out: Path, limit: int
) -> dict[str, Any] | None:
    """The general rows, with system turns of their own. Long ones are left out, whatever `data.too_long` is."""
    replay = recipe.data.replay
    if replay is None:
        return None
    files = replay_files(replay.path, home)
    feed = Feed(0, files, PASSAGE, Reading(rows=recipe.objective.rows))
    with Table(memory, out) as table:
        _work_through(table, [feed], workshop, limit, progress=lambda *_: None)
        _hold_out(table, data, recipe.data.split.twins)
        if not table.sql(f"SELECT count(*) FROM rows WHERE {KEPT}").fetchone()[0]:
            check_rejected(table, 1.0)
        with RowWriter(out / "replay.safetensors") as writer:
            for _, _, rating, rows in table.token_rows():
                for i, (ids, mask) in enumerate(rows):
                    writer.add_packed(ids, mask, rating if i == 0 else None)
        return {
            "path": replay.path,
            "sha256": files.digest(),
            "read": table.count,
            "fates": count_fates(table),
            "reasons": first_reasons(table),
            **measure(table, KEPT),
        }


def _hold_out(table: Table, data: Table, threshold: float) -> None:
    """Keep rows out of the replay that are held out, by their prompt or nearly whole: training would see them."""
    held = f"SELECT place, min(n) FROM rows WHERE {KEPT} AND side != 'train' GROUP BY place"
    for place, number in data.sql(held):
        fate = Fate("held_out", f"its prompt is held out: {data.where(number)}")
        table.reject(f"place = {int(place)}", fate, "held_out")
    for number, pair in list(twins_of_held_out(table, data, threshold)):
        fate = Fate("held_out", f"a twin is held out: {data.where(pair.one)}", score=pair.alike)
        table.reject(f"n = {number}", fate, "held_out")


def replay_files(path: str, recipe_folder: Path) -> Files:
    """The files of the replay's rows: those that come with Luthier, or the recipe's own."""
    if path == BUNDLED:
        from luthier.models.base import ukulele_file  # late: only a recipe that replays needs this room

        return Files(path, [(ukulele_file("replay.jsonl"), path)])
    return find_files(path, recipe_folder)
