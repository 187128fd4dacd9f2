"""`luthier curate`: raw rows to a dataset, with a fate for every row."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work

if TYPE_CHECKING:
    from luthier.data.compare import Difference, Story
    from luthier.runs import Run

Explain = Annotated[
    str | None, typer.Option("--explain", help="One row's story, by FILE:LINE or its hash.", metavar="ROW")
]
Diff = Annotated[
    tuple[str, str] | None,
    typer.Option("--diff", help="What changed between two runs or two dataset artifacts.", metavar="OLD NEW"),
]
BAR = 30
SHOWN_FIELDS = 12


def curate(
    recipe: Recipe = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    explain: Explain = None,
    diff: Diff = None,
    as_json: AsJson = False,
) -> None:
    """Read the rows, give each a fate, and split them."""
    if diff is not None:
        _say_difference(diff, runs, as_json=as_json)
        return
    run, _ = work(recipe, overrides, runs, "dataset", as_json=as_json)
    dataset = run.artifact("dataset")
    if explain is not None:
        _explain(run, explain, as_json=as_json)
        return
    facts = dataset.json("facts.json")
    if as_json:
        folds = {name: facts[name] for name in ("folds", "fold") if name in facts}
        put(document(run, rows={"read": facts["read"], **facts["fates"]}, funnel=facts["funnel"], **folds))
        return
    _say_fates(facts)
    screen = console(out=True)
    for side in ("train", "validation", "test"):
        if part := facts.get(side):
            rows, tokens, trained = (part[name] for name in ("rows", "tokens", "trained_tokens"))
            screen.print(f"{side}: {rows:,} rows, {tokens:,} tokens, {trained:,} trained")
    _say_folds(facts)
    _say_lengths(facts)
    _say_unread(facts)
    if facts["failures"]:
        screen.print(f"failures: {facts['failures']:,} unwanted answers in {dataset.path('failures.jsonl')}")
    screen.print(f"ledger: {dataset.path('ledger.jsonl')}")
    screen.print(f"card:   {dataset.path('README.md')}")


def _say_fates(facts: dict[str, Any]) -> None:
    from rich.table import Table

    screen = console(out=True)
    left = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("rule", "rows taken", "rows left"):
        left.add_column(name, justify="left" if name == "rule" else "right")
    left.add_column("")
    left.add_row("all rows", "", f"{facts['read']:,}", _bar(facts["read"], facts["read"]))
    for part in facts["funnel"]:
        left.add_row(part["rule"], f"{part['rows']:,}", f"{part['left']:,}", _bar(part["left"], facts["read"]))
    screen.print(left)
    screen.print()
    fates = Table(box=None, pad_edge=False, header_style="dim")
    fates.add_column("fate")
    fates.add_column("rows", justify="right")
    fates.add_column("for example", overflow="fold")
    for fate, count in facts["fates"].items():
        fates.add_row(fate, f"{count:,}", facts["reasons"].get(fate, ""))
    fates.add_row("read", f"{facts['read']:,}", "", style="bold")
    screen.print(fates)


def _say_folds(facts: dict[str, Any]) -> None:
    screen = console(out=True)
    for part in facts.get("folds", ()):
        sizes = f"{part['rows']:,} rows in {part['groups']:,} groups, {part['trained_tokens']:,} trained tokens"
        held = "  (held out: validation)" if part["fold"] == facts["fold"] else ""
        screen.print(f"fold {part['fold']} of {len(facts['folds'])}: {sizes}{held}")


def _say_lengths(facts: dict[str, Any]) -> None:
    """What each limit on the length would cost, and the rows of which least is trained."""
    screen = console(out=True)
    lengths = facts.get("lengths") or {}
    for cost in lengths.get("costs", ()):
        enough = "  (enough)" if cost["limit"] == lengths["suggested"] else ""
        lost = f"loses {cost['rows']:,} rows, {cost['trained']:,} trained tokens"
        screen.print(f"a limit of {cost['limit']:,} tokens {lost}{enough}")
    if many := lengths.get("splittable"):
        screen.print(f"{many:,} plain texts are too long; data.too_long=split divides them instead")
    for row in facts.get("smallest_shares", ())[:3]:
        share = row["trained"] / row["tokens"]
        screen.print(f"least trained: {row['row']}, {row['trained']:,} of {row['tokens']:,} tokens ({share:.0%})")


def _say_unread(facts: dict[str, Any]) -> None:
    """Fields that no shape reads: a column that was meant to be learned is not lost without a word."""
    for source in facts["sources"]:
        if names := source.get("unread"):
            shown = ", ".join(f"{name} ({rows:,})" for name, rows in list(names.items())[:SHOWN_FIELDS])
            more = f" and {len(names) - SHOWN_FIELDS} more" if len(names) > SHOWN_FIELDS else ""
            console(out=True).print(f"not read of {source['path']}: {shown}{more}")


def _bar(part: int, whole: int) -> str:
    return "\N{FULL BLOCK}" * round(BAR * part / max(whole, 1))


def _explain(run: "Run", wanted: str, *, as_json: bool) -> None:
    from luthier.data.compare import explain

    stories = explain(run.artifact("dataset").folder, wanted)
    if as_json:
        put(document(run, rows=[story.to_json() for story in stories]))
        return
    for story in stories:
        _say_story(story)


def _say_story(story: "Story") -> None:
    from rich.text import Text

    entry = story.entry
    screen = console(out=True)
    screen.print(Text(entry.where, style="bold") + Text(f"  sha256 {entry.hash[:16]}", style="dim"))
    lines = [("read as", entry.shape or "no known shape")]
    lines += [("changed", note) for note in entry.note.split("; ") if note]
    if entry.fate == "kept":
        lines.append(("kept for", f"{entry.split}, {entry.tokens:,} tokens, {entry.trained:,} trained"))
    else:
        lines.append(("fate", f"{entry.fate} (rule {entry.rule}): {entry.reason}"))
    if entry.score is not None:
        lines.append(("score", f"{entry.score:g}"))
    if entry.unread:
        lines.append(("not read", ", ".join(entry.unread)))
    if entry.duplicate_of:
        lines.append(("in its place", f"{entry.duplicate_of}; luthier curate --explain {entry.duplicate_of}"))
    if story.stands_for:
        shown = ", ".join(story.stands_for[:BAR])
        lines.append(("stands for", f"{len(story.stands_for):,} other rows: {shown}"))
    for name, text in lines:
        screen.print(Text(f"  {name:<13}", style="dim") + Text(text))
    for name in ("messages", "prompt", "chosen", "rejected"):
        for turn in (story.content or {}).get(name, ()):
            who = name if name in ("chosen", "rejected") else turn["role"]
            screen.print(Text(f"  {who:<13}", style="cyan") + Text(turn["content"]))
    if plain := (story.content or {}).get("text"):
        screen.print(Text(plain))


def _say_difference(names: tuple[str, str], runs: Path, *, as_json: bool) -> None:
    from luthier.data.compare import compare

    found = compare(*(_dataset(name, runs) for name in names))
    if as_json:
        put(document(None, difference=found.to_json()))
    else:
        _show(found)


def _dataset(name: str, runs: Path) -> Path:
    """The dataset artifact that a person means: its folder, or a run that has one."""
    from luthier.runs import find_run

    folder = Path(name)
    if (folder / "ledger.jsonl").is_file():
        return folder
    return find_run(name, runs).artifact("dataset").folder


def _show(found: "Difference") -> None:
    from rich.text import Text

    screen = console(out=True)
    screen.print(f"{found.same:,} rows have the fate they had")
    for change in found.changes:
        screen.print(Text(f"{change.rows:,} rows: {change.before} -> {change.after}", style="bold"))
        for row in change.examples:
            screen.print(Text(f"  {row['row']}: {row['before']} -> {row['after']}"))
    for word, counts in (("new", found.added), ("gone", found.gone)):
        if counts:
            parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            screen.print(f"{sum(counts.values()):,} rows are {word}: {parts}")
