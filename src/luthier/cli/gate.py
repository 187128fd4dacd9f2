"""`luthier gate`: may the tuned model be released."""

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def gate(recipe: Recipe = None, overrides: Overrides = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Decide whether the tuned model may be released. By the rules of the recipe; exit code 4 unless it may."""
    from luthier.pipeline import require_pass

    run, _ = work(recipe, overrides, runs, "verdict", as_json=as_json)
    found = run.artifact("verdict").json("verdict.json")
    if not as_json:
        screen = console(out=True)
        for rule in found["rules"]:
            screen.print(f"{rule['verdict']:<12} {rule['rule']}: {rule['reason']}")
        for lost in found["attribution"]:
            screen.print(lost["sentence"], markup=False)
        screen.print(f"verdict: {found['verdict']}", style="bold")
    require_pass(run)
    if as_json:
        put(document(run, verdict=found["verdict"], rules=found["rules"]))
