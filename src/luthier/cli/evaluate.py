"""`luthier evaluate`: base and tuned model on the same prompts; or any model on any suite."""

from typing import Annotated

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work

Suites = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        help="Ask this suite of MODEL, given in place of the recipe: a file, or luthier-safety, mmlu:PATH, ...",
        metavar="SUITE",
    ),
]


def evaluate(
    recipe: Recipe = None,
    overrides: Overrides = None,
    suite: Suites = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Measure base and tuned model on the same prompts; with --suite, ask a model (a run, a folder) that suite."""
    if suite:
        _ask(recipe, overrides, suite, runs, as_json=as_json)
        return
    run, _ = work(recipe, overrides, runs, "evaluation", as_json=as_json)
    if as_json:
        put(document(run))
        return
    screen = console(out=True)
    for name, metric in run.metrics.items():
        screen.print(f"{name:<28} {metric}")


def _ask(model: str | None, overrides: Overrides, names: list[str], runs: Runs, *, as_json: bool) -> None:
    """Every suite, and each prompt of a regression suite that does not hold; if there is one, exit code 4."""
    from luthier.cli.console import Screen
    from luthier.errors import GateFailed, RecipeError
    from luthier.pipeline.suites import ask_suites, load_suites, metrics_of, regressed

    if model is None or overrides:
        raise RecipeError("--suite needs one model", fix="luthier evaluate --suite FILE MODEL")
    tasks = load_suites(names)
    screen = Screen(quiet=as_json)
    screen.stage("evaluate", model)
    try:
        answers = ask_suites(model, tasks, runs, lambda done, total: screen.progress(done, total, "answers"))
    finally:
        screen._close()
    metrics, failing = metrics_of(tasks, answers), regressed(tasks, answers)
    if as_json:
        found = {name: {"value": m.value, "low": m.low, "high": m.high, "n": m.n} for name, m in metrics.items()}
        status = "failed" if failing else "done"
        put(document(None, model=model) | {"metrics": found, "failing": failing, "status": status})
    else:
        out = console(out=True)
        for name, metric in metrics.items():
            out.print(f"{name:<28} {metric}")
        for row in failing:
            out.print(f"broken {row['suite']}: {row['prompt']}: {'; '.join(row['reasons'])}", style="red", markup=False)
    if failing:
        if as_json:
            raise SystemExit(GateFailed.exit_code)
        raise GateFailed(
            f"prompts that do not hold: {len({(r['suite'], r['prompt']) for r in failing})}",
            where=model,
            fix="see above",
        )
