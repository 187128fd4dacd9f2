"""`luthier inspect`: rows from the file to the trained tokens."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work
from luthier.errors import RecipeError

if TYPE_CHECKING:
    from rich.text import Text

    from luthier.pipeline.view import Piece, RowView

TRAINED, UNTRAINED = "bold green", "dim"


def inspect(
    recipe: Recipe = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
    row: Annotated[str | None, typer.Option("--row", help="A line of the first source, or FILE:LINE.")] = None,
    at_random: Annotated[int | None, typer.Option("--random", help="So many kept rows.", min=1)] = None,
    worst: Annotated[
        int | None, typer.Option("--worst", help="The rows with the smallest share of trained tokens.", min=1)
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Token by token, with the ids.")] = False,
) -> None:
    """Show rows as they were read, as a conversation, and as tokens: what is trained and what is not."""
    from luthier.pipeline.view import choose, look_at

    if sum(option is not None for option in (row, at_random, worst)) > 1:
        raise RecipeError("--row, --random and --worst exclude each other", fix="give one of them")
    run, _ = work(recipe, overrides, runs, "dataset", as_json=as_json)
    dataset = run.artifact("dataset").folder
    chosen = choose(dataset, row=row, at_random=at_random, worst=worst, seed=run.recipe.seed)
    from luthier.models.base import find_base

    tokenizer = find_base(run.recipe.model, run.home).tokenizer()
    views = look_at(chosen, dataset, run.recipe, run.home, tokenizer)
    if as_json:
        put(document(run, rows=[view.to_json() for view in views]))
        return
    out = console(out=True)
    for view in views:
        out.print(heading(view))
        for part in parts(view, tokenizer, ids=ids):
            out.print(part)
    from rich.text import Text

    if any(view.rows for view in views):
        out.print(Text("trained", TRAINED) + Text("  not trained", UNTRAINED))


def heading(view: "RowView") -> "Text":
    """A line that says which row it is and what became of it."""
    from rich.text import Text

    heading = Text("\n") + Text(view.where, "bold")
    if view.fate != "kept":
        return heading + Text(f"  {view.fate}: {view.reason}", "yellow")
    share = view.trained / view.tokens if view.tokens else 0.0
    rows = f", {len(view.rows)} rows" if len(view.rows) > 1 else ""
    return heading + Text(f"  {view.side}, {view.tokens:,} tokens{rows}, {view.trained:,} trained ({share:.0%})")


def parts(view: "RowView", tokenizer: Any, *, ids: bool) -> "list[Text]":
    """The row as it was read, as a conversation and as tokens."""
    from rich.text import Text

    parts = [Text("as read", "cyan"), Text(view.raw)]
    if view.messages:
        parts.append(Text("as a conversation", "cyan"))
        parts += [Text(f"{turn['role']:<10}", "magenta") + Text(_said(turn)) for turn in view.messages]
    for number, row in enumerate(view.rows, 1):
        parts.append(Text("as tokens" if len(view.rows) == 1 else f"as tokens, row {number}", "cyan"))
        parts.append(_by_id(row, tokenizer) if ids else _flowing(row))
    return parts


def _said(turn: dict[str, Any]) -> str:
    extra = [f"{key}: {turn[key]}" for key in ("reasoning", "tool_calls", "train") if key in turn]
    return "  ".join([turn["content"], *extra])


def _flowing(row: "list[Piece]") -> "Text":
    from rich.text import Text

    text = Text()
    for piece in row:
        text += Text(piece.text, TRAINED if piece.trained else UNTRAINED)
    return text


def _by_id(row: "list[Piece]", tokenizer: Any) -> "Text":
    """One token a line: its id, whether it is trained, and its text as a literal."""
    from rich.text import Text

    lines = [
        Text(
            f"{token:>8}  {'trained' if piece.trained else '':<8}  {tokenizer.decode([token])!r}\n",
            TRAINED if piece.trained else UNTRAINED,
        )
        for piece in row
        for token in piece.ids
    ]
    return Text().join(lines)
