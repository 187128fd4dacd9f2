"""`luthier show`: one run's story."""

from luthier.cli.console import RUNS, AsJson, RunName, Runs, console, document, put


def show(run: RunName = "last", runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Tell what became of a run. Rows, plan, training, metrics, gate and release on one screen."""
    from luthier.pipeline.summary import summary
    from luthier.runs import find_run

    found = find_run(run, runs)
    if as_json:
        put(document(found))
    else:
        console(out=True).print(summary(found))
