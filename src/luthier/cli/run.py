"""`luthier run`: every stale stage."""

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work


def run(recipe: Recipe = None, overrides: Overrides = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Take raw rows to a judged, released model: every stage that is stale."""
    from luthier.errors import LuthierError
    from luthier.pipeline.summary import summary

    try:
        done, _ = work(recipe, overrides, runs, "release", as_json=as_json)
    except LuthierError as error:
        failed = getattr(error, "run", None)
        if failed is not None and not as_json and "verdict" in failed.artifacts:
            console(out=True).print(summary(failed))
        raise
    if as_json:
        put(document(done))
    else:
        console(out=True).print(summary(done))
