"""The recipe: what is wanted of a run, as a strict tree of sections."""

from luthier.recipe.curate import Curate
from luthier.recipe.data import Data, Replay, Source, Split
from luthier.recipe.evaluate import Evaluate
from luthier.recipe.gate import Gate, Rule, parse_rule
from luthier.recipe.load import build_recipe, dump_recipe, load_recipe
from luthier.recipe.model import Dtype, Model, PlainTemplate
from luthier.recipe.objective import Dpo, Kto, Objective, Orpo, Reward, RowKind, Sft, Text
from luthier.recipe.recipe import Recipe
from luthier.recipe.release import Release
from luthier.recipe.review import Review
from luthier.recipe.training import Training
from luthier.recipe.tuning import (
    MERGES,
    Adapter,
    Auto,
    Freeze,
    Full,
    Ia3,
    Lora,
    Prefix,
    Prompt,
    PTuning,
    Qlora,
    Tuning,
)

__all__ = [
    "MERGES",
    "Adapter",
    "Auto",
    "Curate",
    "Data",
    "Dpo",
    "Dtype",
    "Evaluate",
    "Freeze",
    "Full",
    "Gate",
    "Ia3",
    "Kto",
    "Lora",
    "Model",
    "Objective",
    "Orpo",
    "PTuning",
    "PlainTemplate",
    "Prefix",
    "Prompt",
    "Qlora",
    "Recipe",
    "Release",
    "Replay",
    "Review",
    "Reward",
    "RowKind",
    "Rule",
    "Sft",
    "Source",
    "Split",
    "Text",
    "Training",
    "Tuning",
    "build_recipe",
    "dump_recipe",
    "load_recipe",
    "parse_rule",
]
