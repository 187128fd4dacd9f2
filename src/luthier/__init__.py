"""Luthier: from raw rows and a pre-trained language model to a released, specialised model, with proof at every step.

>>> import luthier
>>> run = luthier.run("recipe.yaml", "training.epochs=2")
>>> run.metrics["exact_match"].value
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.runs import Run

try:
    __version__ = version("luthier")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

__all__ = ["__version__", "open_run", "run"]


def run(recipe: str | Path | Mapping[str, Any], *overrides: str, runs: str | Path = "runs") -> "Run":
    """Take a recipe through every stage that is stale, and return the run.

    Args:
        recipe: the path of a recipe, or its content as a nested mapping.
        overrides: settings as on the command line, such as `"training.epochs=2"`.
        runs: the folder that holds the runs.

    Raises:
        luthier.errors.LuthierError: with what happened, where, and what to do; its subclasses tell the kinds apart.
    """
    from luthier.pipeline import run_recipe  # late, so that `import luthier` loads neither torch nor pydantic

    return run_recipe(recipe, overrides, root=Path(runs))


def open_run(name: str | Path, *, runs: str | Path = "runs") -> "Run":
    """A finished or unfinished run: its folder, its name, the beginning of its name, or `last`.

    Raises:
        luthier.errors.RecipeError: there is no such run.
    """
    from luthier.runs import find_run

    return find_run(str(name), Path(runs))
