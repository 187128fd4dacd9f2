"""`luthier release`: merge and parity."""

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def release(recipe: Recipe = None, overrides: Overrides = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Merge the tuned model and prove that it is the same. What answers otherwise is not released."""
    run, _ = work(recipe, overrides, runs, "release", as_json=as_json)
    if as_json:
        put(document(run))
        return
    console(out=True).print(f"released: {run.artifacts['release'] / 'model'}")
    console(out=True).print(f"luthier chat {run.name}")
