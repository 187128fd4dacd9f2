"""The data card: what a dataset is, for whoever has to defend it. Markdown, with numbers from the curation itself."""

import textwrap
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.data.table import KEPT, Table
from luthier.recipe import Recipe
from luthier.types import Example, Message, Pair

SAMPLES, SAMPLE_LETTERS = 5, 600
SHARES = (0, 10, 25, 50, 75, 90, 99, 100)


def card(table: Table, recipe: Recipe, facts: Mapping[str, Any]) -> str:
    """The card of a curation."""
    parts = [
        f"# Dataset of `{recipe.name}`",
        _counts(facts),
        "## Sources\n\n" + _sources(recipe, facts),
        "## What became of the rows\n\n" + _funnel(facts),
        "## Lengths\n\n" + _lengths(table),
        _steps(facts),
        "## Samples\n\nKept for training, chosen by a hash of their content and cut to "
        f"{SAMPLE_LETTERS} letters a turn.\n\n" + _samples(table),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[_cell(cell) for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _counts(facts: Mapping[str, Any]) -> str:
    sides = [(side, facts[side]) for side in ("train", "validation", "test") if side in facts]
    names = ("rows", "tokens", "trained_tokens", "longest")
    table = _rows(
        ("side", "rows", "tokens", "trained tokens", "longest row, tokens"),
        [(side, *(part[name] for name in names)) for side, part in sides],
    )
    proof = facts["proof"]
    proved = (
        f"No two rows on different sides share {proof['threshold']:.0%} or more of their shingles (Jaccard): every "
        f"pair that could was compared, and {proof['tied']:,} were tied together for it."
    )
    kept = f"{facts['read']:,} rows were read; {facts['fates']['kept']:,} were kept."
    return "\n\n".join((kept, table, *_folds(facts), proved))


def _folds(facts: Mapping[str, Any]) -> list[str]:
    if "folds" not in facts:
        return []
    names = ("fold", "rows", "groups", "tokens", "trained_tokens")
    rows = [tuple(part[name] for name in names) for part in facts["folds"]]
    said = f"Of {len(rows)} folds, fold {facts['fold']} is held out for validation. The proof is between all folds."
    return [said, _rows(("fold", "rows", "groups", "tokens", "trained tokens"), rows)]


def _sources(recipe: Recipe, facts: Mapping[str, Any]) -> str:
    rows = [
        (f"`{found['path']}`", found["rows"], found["kept"], f"{given.weight:g}", given.licence or "not given",
         f"`{found['sha256'][:16]}`")
        for given, found in zip(recipe.data.sources, facts["sources"], strict=True)
    ]  # fmt: skip
    left = [f"`{name}`" for found in facts["sources"] for name in found["left_out"]]
    more = f"\n\nNot read, because of no known kind: {', '.join(left)}." if left else ""
    return _rows(("source", "rows", "kept", "weight", "licence", "sha256"), rows) + more + _unread(facts)


def _unread(facts: Mapping[str, Any]) -> str:
    """The fields of each source that no step has looked at."""
    lines = [
        f"- `{found['path']}`: "
        + ", ".join(f"`{_cell(name)}` ({rows:,} rows)" for name, rows in found["unread"].items())
        for found in facts["sources"]
        if found.get("unread")
    ]
    return "\n\nFields that nothing reads:\n\n" + "\n".join(lines) if lines else ""


def _funnel(facts: Mapping[str, Any]) -> str:
    rules = [("read", "", facts["read"]), *((part["rule"], part["rows"], part["left"]) for part in facts["funnel"])]
    fates = [(name, count, facts["reasons"].get(name, "")) for name, count in facts["fates"].items()]
    parts = [
        "![Rows left after each rule](funnel.svg)",
        _rows(("rule", "rows taken", "rows left"), rules),
        _rows(("fate", "rows", "for example"), fates),
    ]
    if facts["failures"]:
        parts.append(f"{facts['failures']:,} answers that people did not want stand in `failures.jsonl`.")
    return "\n\n".join(parts)


def _lengths(table: Table) -> str:
    columns = array("q"), array("q")
    for counts in table.sql(f"SELECT tokens, trained FROM rows WHERE {KEPT}"):
        for column, count in zip(columns, counts, strict=True):
            column.append(count)
    at = [min(len(columns[0]) - 1, len(columns[0]) * share // 100) for share in SHARES]
    rows = [(name, *np.sort(column)[at].tolist()) for name, column in zip(("tokens", "trained"), columns, strict=True)]
    heads = ["smallest", *(f"{share} % below" for share in SHARES[1:-1]), "largest"]
    return "Of kept rows:\n\n" + _rows(("", *heads), rows)


def _steps(facts: Mapping[str, Any]) -> str:
    rows = [
        (name.replace("_", " "), ", ".join(f"{key.replace('_', ' ')}: {_short(value)}" for key, value in found.items()))
        for name, found in facts["steps"].items()
    ]
    return "## What the steps found\n\n" + _rows(("step", "found"), rows) if rows else ""


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(part)}" for key, part in list(value.items())[:12])
    if isinstance(value, list):
        return f"{len(value):,} ({', '.join(map(str, value[:5]))}{', ...' if len(value) > 5 else ''})"
    return _cell(value)


def _samples(table: Table) -> str:
    query = f"SELECT n FROM rows WHERE {KEPT} AND side = 'train' ORDER BY hash LIMIT ?"
    return "\n\n".join(_sample(table.content(number)) for (number,) in table.sql(query, (SAMPLES,)).fetchall())


def _sample(content: Example | Pair) -> str:
    lines = [f"**{content.where}**"]
    named: list[tuple[str, Message]]
    if isinstance(content, Pair):
        named = [(turn.role, turn) for turn in content.prompt]
        named += [("chosen", turn) for turn in content.chosen] + [("rejected", turn) for turn in content.rejected]
    elif content.text is not None:
        named = [("text", Message("user", content.text))]
    else:
        named = [(turn.role, turn) for turn in content.messages]
    for name, turn in named:
        text = textwrap.indent(turn.content[:SAMPLE_LETTERS], "    ", lambda _: True)
        lines.append(f"{name}:\n\n{text}")
    return "\n\n".join(lines)
