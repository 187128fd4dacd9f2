"""Any model as a candidate to be asked: a run's, a folder, the bundled base, one from the hub."""

from pathlib import Path
from typing import Any

from luthier.errors import RecipeError
from luthier.models.base import find_base
from luthier.pipeline.opened import Opened, open_tuned
from luthier.recipe import Model
from luthier.runs import STORE, Run, find_run


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
    from luthier.models.load import quiet, training_dtype

    quiet()
    run = _find_run(name, runs)
    if run is not None:
        opened = open_tuned(run)
    else:
        base = find_base(Model(base=name))
        dtype = training_dtype("auto")
        opened = Opened("base model", base.folder, base, dtype, f"{base.identity()} base {dtype}")
    tokenizer = opened.tokenizer()
    memory = Memory(runs / STORE / "answers", opened.identity)
    return Candidate(opened.load(), tokenizer, opened.stop(tokenizer), memory=memory)


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
