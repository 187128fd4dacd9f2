"""The recipe: what is wanted of a run, as a strict tree of sections."""

from luthier.recipe.curate import Curate
from luthier.recipe.data import Data, Replay, Source, Split
from luthier.recipe.evaluate import Evaluate
from luthier.recipe.gate import Gate, Rule, parse_rule
from luthier.recipe.load import build_recipe, dump_recipe, load_recipe
from luthier.recipe.model import Dtype, Model
from luthier.recipe.objective import Objective, RowKind, Sft
from luthier.recipe.recipe import Recipe
from luthier.recipe.release import Release
from luthier.recipe.training import Training
from luthier.recipe.tuning import Auto, Full, Lora, Qlora, Tuning

__all__ = [
    "Auto",
    "Curate",
    "Data",
    "Dtype",
    "Evaluate",
    "Full",
    "Gate",
    "Lora",
    "Model",
    "Objective",
    "Qlora",
    "Recipe",
    "Release",
    "Replay",
    "RowKind",
    "Rule",
    "Sft",
    "Source",
    "Split",
    "Training",
    "Tuning",
    "build_recipe",
    "dump_recipe",
    "load_recipe",
    "parse_rule",
]
