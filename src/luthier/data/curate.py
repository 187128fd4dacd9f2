"""From raw rows to token rows. The rules run in a fixed order and each row gets exactly one fate.

In order: read -> shape and roles -> exact duplicates -> rendering -> length -> kept.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.artifact import file_digest, write_text
from luthier.data.ledger import Entry, KeptRows, check_rejected, count_fates, first_reasons, kept, measure, write_lines
from luthier.data.read import RawRow, read_rows, resolve
from luthier.data.shapes import Reading, convert
from luthier.data.split import Side, content_group, divide, normalise
from luthier.errors import DataError, RecipeError, TemplateError
from luthier.recipe import Recipe, Source
from luthier.text import TrainingRow, render_batch, save_rows
from luthier.types import KEPT, Example, Fate, Pair

BATCH, BATCH_LETTERS = 256, 1_000_000
SIDES: tuple[Side, Side] = ("train", "validation")
BUNDLED = "ukulele"


class _Rules:
    """The rules that need to remember something or that the recipe sets."""

    def __init__(self, tokenizer: Any, limit: int, *, stop_at_long: bool) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self.stop_at_long = stop_at_long
        self.seen: dict[bytes, str] = {}
        self.most_letters = _most_letters(tokenizer, limit)

    def apply(self, rows: Iterable[RawRow], reading: Reading) -> Iterator[Entry]:
        """One entry for each row, in order. Rendering goes in batches, so that tokenising uses all cores."""
        for batch in _batches(self._open(row, reading) for row in rows):
            self._render([entry for entry in batch if entry.fate.kept])
            yield from batch

    def _open(self, row: RawRow, reading: Reading) -> Entry:
        name, found = convert(row, reading)
        if isinstance(found, Pair):
            raise NotImplementedError
        if isinstance(found, Fate):
            return Entry(row.source, row.line, row.digest, name, found)
        entry = Entry(row.source, row.line, row.digest, name, KEPT, found)
        identity = _identity(found)
        if first := self.seen.get(identity):
            entry.reject(Fate("duplicate", f"same as {first}", first))
        else:
            self.seen[identity] = entry.where
            if self.most_letters and (letters := _letters(found)) > self.most_letters:
                self._too_long(entry, f"{letters:,} letters, which is more than {self.limit} tokens, the limit")
        return entry

    def _render(self, entries: Sequence[Entry]) -> None:
        examples = [entry.example for entry in entries if entry.example is not None]
        for entry, rows in zip(entries, render_batch(examples, self.tokenizer), strict=True):
            if isinstance(rows, TemplateError):
                entry.reject(Fate("template", rows.what))
            else:
                self._weigh(entry, rows)

    def _weigh(self, entry: Entry, rows: Sequence[TrainingRow]) -> None:
        entry.tokens, entry.trained = max(len(row.ids) for row in rows), sum(sum(row.trained) for row in rows)
        if not entry.trained:
            entry.reject(Fate("nothing_trained", f"none of its {entry.tokens} tokens would be trained"))
        elif entry.tokens > self.limit:
            self._too_long(entry, f"{entry.tokens} tokens, the limit is {self.limit}")
        else:
            entry.keep_rows(rows)

    def _too_long(self, entry: Entry, reason: str) -> None:
        if self.stop_at_long:
            fix = "shorten the row, raise data.max_length, or set data.too_long=drop"
            raise DataError(reason, where=entry.where, fix=fix)
        entry.reject(Fate("too_long", reason))


def _letters(example: Example) -> int:
    return len(example.text or "") + sum(len(turn.content) for turn in example.messages)


def _most_letters(tokenizer: Any, limit: int) -> int | None:
    """Letters above which a row is too long for certain, so that a row of megabytes is not tokenised to find out.

    No token holds more letters than the longest piece of the vocabulary; composing (NFC) may have taken up to four
    letters for one. An unknown-token may stand for any number of letters, so with one nothing is certain.
    """
    if tokenizer.unk_token is not None:
        return None
    return limit * 4 * max(map(len, tokenizer.get_vocab()))


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in groups small enough that memory stays flat, however long the rows are."""
    batch: list[Entry] = []
    letters = 0
    for entry in entries:
        batch.append(entry)
        if entry.example is not None:
            letters += _letters(entry.example)
        if len(batch) >= BATCH or letters >= BATCH_LETTERS:
            yield batch
            batch, letters = [], 0
    yield batch


def curate(recipe: Recipe, recipe_folder: Path, tokenizer: Any, context: int, out: Path) -> dict[str, Any]:
    """Read, check, render and divide the recipe's rows.

    Args:
        recipe: what is wanted.
        recipe_folder: the folder of the recipe, where relative paths are looked for first.
        tokenizer: the model's tokenizer with its chat template.
        context: the longest row the model can take, in tokens.
        out: an existing folder, in which `ledger.jsonl`, the rows of both sides and `facts.json` are written.

    Returns:
        The content of `facts.json`.

    Raises:
        RecipeError: `data.max_length` is longer than the model's context.
        DataError: a file or too many rows cannot be used, or there is nothing to divide.
    """
    limit = _limit(recipe.data.max_length, context)
    files = [(source, resolve(source.path, recipe_folder)) for source in recipe.data.sources]
    stop = recipe.data.too_long == "error"
    rules = _Rules(tokenizer, limit, stop_at_long=stop)
    entries: list[Entry] = []
    sources: list[dict[str, Any]] = []
    for source, path in files:
        read = list(rules.apply(read_rows(path, source.path), _reading(source, recipe)))
        sources.append({"path": source.path, "sha256": file_digest(path), "rows": len(read)})
        entries += read
    good = kept(entries)
    _check_and_divide(recipe, entries, good, out)
    facts: dict[str, Any] = {
        "read": len(entries),
        "fates": count_fates(entries),
        "reasons": first_reasons(entries),
        "shapes": dict(Counter(entry.shape for entry in entries if entry.shape).most_common()),
        "sources": sources,
        **{name: _write_side(out, name, [entry for entry in good if entry.side == name]) for name in SIDES},
        "replay": _replay(recipe, recipe_folder, rules, good, out),
        "context": limit,
        "system": recipe.data.system is not None,
    }
    write_text(out / "facts.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts


def _reading(source: Source, recipe: Recipe) -> Reading:
    fields = {str(name): key for name, key in source.fields.items()}
    return Reading(source.shape, recipe.data.system, fields, source.scale, recipe.objective.rows)


def _limit(max_length: int | None, context: int) -> int:
    if max_length is not None and max_length > context:
        raise RecipeError(
            f"data.max_length is {max_length}, but the model's context is {context}",
            fix=f"set data.max_length to {context} or less, or leave it out",
        )
    return min(max_length or context, context)


def _identity(example: Example) -> bytes:
    """A hash that is equal for conversations that differ at most in white space and Unicode form."""
    turns = [(message.role, normalise(message.content)) for message in example.messages]
    text = None if example.text is None else normalise(example.text)
    return hashlib.blake2b(json.dumps([turns, text]).encode(), digest_size=16).digest()


def _check_and_divide(recipe: Recipe, entries: Sequence[Entry], good: Sequence[Entry], out: Path) -> None:
    """Give the kept rows their side. The ledger is written whatever happens: it shows what to mend."""
    try:
        check_rejected(entries, recipe.data.max_rejected)
        examples = [entry.example for entry in good if entry.example is not None]
        for entry, chosen in zip(good, divide(examples, recipe.data.split.validation, recipe.seed), strict=True):
            entry.side = chosen
    finally:
        write_lines(out / "ledger.jsonl", (entry.to_json() for entry in entries))


def _write_side(out: Path, name: str, entries: Sequence[Entry]) -> dict[str, int]:
    """Write the rows of one side, as text and as tokens, in the same order."""
    write_lines(out / f"{name}.jsonl", (entry.example.to_json() for entry in entries if entry.example is not None))
    save_rows(out / f"{name}.safetensors", KeptRows(entries))
    return measure(entries)


def _replay(
    recipe: Recipe, recipe_folder: Path, rules: _Rules, data: Sequence[Entry], out: Path
) -> dict[str, Any] | None:
    """The general rows, with system turns of their own. Long ones are left out, whatever `data.too_long` is."""
    replay = recipe.data.replay
    if replay is None:
        return None
    path = _replay_file(replay.path, recipe_folder)
    own = _Rules(rules.tokenizer, rules.limit, stop_at_long=False)
    entries = list(own.apply(read_rows(path, replay.path), Reading()))
    _hold_out(entries, data)
    good = kept(entries)
    if not good:
        check_rejected(entries, 1.0)
    save_rows(out / "replay.safetensors", KeptRows(good))
    return {
        "path": replay.path,
        "sha256": file_digest(path),
        "read": len(entries),
        "fates": count_fates(entries),
        "reasons": first_reasons(entries),
        **measure(good),
    }


def _hold_out(entries: Iterable[Entry], data: Iterable[Entry]) -> None:
    """Keep rows out of the replay whose prompt is in validation: training would see what is held out."""
    held = {content_group(e.example): e.where for e in data if e.example is not None and e.side == "validation"}
    for entry in entries:
        if entry.example is not None and (where := held.get(content_group(entry.example))):
            entry.reject(Fate("held_out", f"its prompt is held out for validation: {where}"))


def _replay_file(path: str, recipe_folder: Path) -> Path:
    if path == BUNDLED:
        from luthier.models.base import ukulele_file  # late: only a recipe that replays needs this room

        return ukulele_file("replay.jsonl")
    return resolve(path, recipe_folder)
