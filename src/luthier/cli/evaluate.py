"""`luthier evaluate`: base and tuned model on the same prompts."""

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def evaluate(recipe: Recipe = None, overrides: Overrides = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Measure base and tuned model on the same prompts."""
    run, _ = work(recipe, overrides, runs, "evaluation", as_json=as_json)
    if as_json:
        put(document(run))
        return
    screen = console(out=True)
    for name, metric in run.metrics.items():
        screen.print(f"{name:<28} {metric}")
