"""`luthier train`: the tuned model."""

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def train(recipe: Recipe = None, overrides: Overrides = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Train what the plan says. An interrupted training goes on where it stopped."""
    run, _ = work(recipe, overrides, runs, "model", as_json=as_json)
    if as_json:
        put(document(run))
        return
    found = run.artifact("model").json("training.json")
    screen = console(out=True)
    score = found.get("held_out")
    best = f"validation loss {found['best_loss']:.4f}" if score is None else f"held-out score {score:.4f}"
    screen.print(
        f"{found['steps']} updates, {found['tokens']:,} tokens, {found['tokens_per_second']:,.0f} tokens/s; "
        f"best {best} after update {found['best_step']}"
    )
    if found["stopped"]:
        screen.print(f"stopped early: {found['stopped']}")
    screen.print(f"model: {run.artifacts['model']}")
