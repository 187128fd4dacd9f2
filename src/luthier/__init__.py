"""Luthier: from raw rows and a pre-trained language model to a released, specialised model, with proof at every step.

>>> import luthier
>>> run = luthier.run("recipe.yaml")
>>> run.metrics["exact_match"].value
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.pipeline import run
    from luthier.recipe import Recipe
    from luthier.run import Run

try:
    __version__ = version("luthier")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

__all__ = ["Recipe", "Run", "__version__", "run"]
_HOMES = {"run": "luthier.pipeline", "Recipe": "luthier.recipe", "Run": "luthier.run"}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import luthier` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
