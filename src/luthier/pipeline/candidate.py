"""Any model as a candidate to be asked: a run's, a folder, the bundled base, one from the hub."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from luthier.errors import DataError, RecipeError
from luthier.models.base import Base, find_base
from luthier.recipe import Model, Tuning
from luthier.runs import STORE, Run, find_run
from luthier.text import load_tokenizer, stop_ids


def open_candidate(name: str, runs: Path) -> Any:
    """Load a model to ask it.

    Args:
        name: a run (its folder, name, the beginning of it, or `last`), a model's folder, `ukulele`, or a hub id.
        runs: the folder of the runs; what a model said is remembered there.

    Raises:
        RecipeError: nothing of this name is found.
        DataError: the run has no model yet.
    """
    from luthier.evaluate.asking import Candidate
    from luthier.evaluate.cache import Memory
    from luthier.models.load import load_model, quiet, training_dtype

    quiet()
    run = _find_run(name, runs)
    if run is not None:
        model, base, identity = _of_run(run)
    else:
        base = find_base(Model(base=name))
        dtype = training_dtype("auto")
        model, identity = load_model(base, dtype), f"{base.identity()} base {dtype}"
    tokenizer = load_tokenizer(base.folder, trust_remote_code=base.trust_remote_code)
    return Candidate(
        model, tokenizer, stop_ids(tokenizer, base.stop_ids), memory=Memory(runs / STORE / "answers", identity)
    )


def _find_run(name: str, runs: Path) -> Run | None:
    path = Path(name)
    if name == "ukulele" or ((path / "config.json").exists() and not (path / "run.json").exists()):
        return None
    try:
        return find_run(name, runs)
    except RecipeError:
        if name.count("/") == 1 or path.is_dir():
            return None
        raise


def _of_run(run: Run) -> tuple[Any, Base, str]:
    """The released model of a run, the tuned one where none is released, with the base whose tokenizer it has."""
    from luthier.models.load import load_model, training_dtype
    from luthier.models.tuned import load_tuned

    start = find_base(run.recipe.model, run.home)
    if "release" in run.artifacts and (run.artifact("release").path("model") / "config.json").exists():
        found = run.artifact("release")
        base = Base(run.name, found.path("model"), None, start.trust_remote_code)
        dtype = training_dtype(run.recipe.model.dtype)
        return load_model(base, dtype), base, f"{found.sha256} released {dtype}"
    if "model" not in run.artifacts:
        raise DataError("the run has no model yet", where=run.name, fix=f"luthier run {run.folder}")
    plan = run.artifact("plan").json("plan.json")
    found = run.artifact("model")
    tuning: Tuning = TypeAdapter(Tuning).validate_python(plan["tuning"])
    model = load_tuned(start, found.folder, tuning, plan["dtype"])
    return model, start, f"{start.identity()} {found.sha256} {plan['dtype']}"
