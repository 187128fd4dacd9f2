"""The table of steps. Adding one is a class in a file of its own, its section in `recipe/curate.py`, and a line here.

A row step goes into `row_steps`' order and a set step into `set_steps`' order by its place in the table. Modules in
this table import what is heavy (scikit-learn, compiled code) inside the step, not at their top.
"""

from typing import Any

from luthier.data.boilerplate import Boilerplate
from luthier.data.c4 import C4
from luthier.data.contamination import Contamination
from luthier.data.documents import FineWeb, Gopher, Repetition
from luthier.data.duplicates import Duplicates
from luthier.data.language import Language
from luthier.data.length import Length, LengthOutliers
from luthier.data.meaning import SemanticDuplicates
from luthier.data.near_duplicates import NearDuplicates
from luthier.data.private import Pii, Secrets
from luthier.data.profanity import Profanity
from luthier.data.step import RowStep, SetStep, Step, Surroundings
from luthier.data.structure import Structure
from luthier.recipe import Curate

STEPS: tuple[type[Step[Any]], ...] = (
    # row steps; secrets and personal data first, so that what is replaced is seen by no later step
    Secrets,
    Pii,
    Structure,
    Length,
    Boilerplate,
    Language,
    Profanity,
    Repetition,
    C4,
    Gopher,
    FineWeb,
    # set steps
    Duplicates,
    NearDuplicates,
    SemanticDuplicates,
    Contamination,
    LengthOutliers,
)


def _asked(curate: Curate, around: Surroundings) -> list[Step[Any]]:
    settings = ((step, getattr(curate, step.name)) for step in STEPS)
    return [step(given, around) for step, given in settings if given is not None]


def row_steps(curate: Curate, around: Surroundings) -> list[RowStep[Any]]:
    """The row steps that the recipe asks for, in order."""
    return [step for step in _asked(curate, around) if isinstance(step, RowStep)]


def set_steps(curate: Curate, around: Surroundings) -> list[SetStep[Any]]:
    """The set steps that the recipe asks for, in order."""
    return [step for step in _asked(curate, around) if isinstance(step, SetStep)]
