"""`luthier curate`: raw rows to a dataset, with a fate for every row."""

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def curate(recipe: Recipe = None, overrides: Overrides = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Read the rows, give each a fate, and split them."""
    run, _ = work(recipe, overrides, runs, "dataset", as_json=as_json)
    facts = run.artifact("dataset").json("facts.json")
    if as_json:
        put(document(run, rows={"read": facts["read"], **facts["fates"]}))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("fate")
    table.add_column("rows", justify="right")
    table.add_column("for example", overflow="fold")
    for fate, count in facts["fates"].items():
        table.add_row(fate, f"{count:,}", facts["reasons"].get(fate, ""))
    table.add_row("read", f"{facts['read']:,}", "", style="bold")
    screen = console(out=True)
    screen.print(table)
    for side in ("train", "validation"):
        part = facts[side]
        screen.print(f"{side}: {part['rows']:,} rows, {part['tokens']:,} tokens, {part['trained_tokens']:,} trained")
    screen.print(f"ledger: {run.artifacts['dataset'] / 'ledger.jsonl'}")
