"""The recipe: what is wanted of a run, as a strict tree of sections."""

from luthier.recipe.curate import Curate
from luthier.recipe.data import Data, Replay, Source, Split
from luthier.recipe.evaluate import Evaluate, Guard, RedTeam
from luthier.recipe.gate import Gate, Rule, parse_rule
from luthier.recipe.load import build_recipe, dump_recipe, load_recipe
from luthier.recipe.model import Dtype, Model, PlainTemplate
from luthier.recipe.objective import Dpo, Kto, Objective, Orpo, Reward, RowKind, Sft, Text
from luthier.recipe.policy import Grpo, Policy, Ppo, Rloo
from luthier.recipe.recipe import Recipe
from luthier.recipe.release import Release
from luthier.recipe.review import Review
from luthier.recipe.reward import (
    CodeReward,
    LengthReward,
    ModelReward,
    OverlongReward,
    PythonReward,
    ScorerReward,
)
from luthier.recipe.reward import Reward as RewardPart
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
    "CodeReward",
    "Curate",
    "Data",
    "Dpo",
    "Dtype",
    "Evaluate",
    "Freeze",
    "Full",
    "Gate",
    "Grpo",
    "Guard",
    "Ia3",
    "Kto",
    "LengthReward",
    "Lora",
    "Model",
    "ModelReward",
    "Objective",
    "Orpo",
    "OverlongReward",
    "PTuning",
    "PlainTemplate",
    "Policy",
    "Ppo",
    "Prefix",
    "Prompt",
    "PythonReward",
    "Qlora",
    "Recipe",
    "RedTeam",
    "Release",
    "Replay",
    "Review",
    "Reward",
    "RewardPart",
    "Rloo",
    "RowKind",
    "Rule",
    "ScorerReward",
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
