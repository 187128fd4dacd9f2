"""`luthier runs`: what there is."""

from luthier.cli.console import RUNS, AsJson, Runs, console, document, put


def runs(runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """List the runs, the one touched last first."""
    from luthier.runs import list_runs

    found = list_runs(runs)
    if as_json:
        put({"status": "done", "run": None, "artifacts": {}, "metrics": {}, "runs": [document(run) for run in found]})
        return
    from rich.table import Table

    if not found:
        console(out=True).print(f"no runs in {runs}; start with: luthier run")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("run", "status", "base", "verdict", "metrics"):
        table.add_column(column, overflow="fold")
    for run in found:
        verdict = run.artifact("verdict").json("verdict.json")["verdict"] if "verdict" in run.artifacts else "-"
        shown = [f"{k} {m.value:.3f}" for k, m in run.metrics.items() if not k.startswith("before/")]
        table.add_row(run.name, run.status, run.recipe.model.base, verdict, ", ".join(shown))
    console(out=True).print(table)
