"""Objectives: what is optimised. Adding one is a file here and a line in `OBJECTIVES`."""

from luthier.train.objectives.dpo import Dpo
from luthier.train.objectives.grpo import Grpo
from luthier.train.objectives.kto import Kto
from luthier.train.objectives.objective import Loss, Objective
from luthier.train.objectives.online_dpo import OnlineDpo
from luthier.train.objectives.orpo import Orpo
from luthier.train.objectives.policy import PolicyObjective
from luthier.train.objectives.ppo import Ppo
from luthier.train.objectives.reward import Reward
from luthier.train.objectives.rloo import Rloo
from luthier.train.objectives.sft import Sft
from luthier.train.objectives.text import Text

OBJECTIVES: dict[str, type[Objective]] = {
    "sft": Sft,
    "text": Text,
    "reward": Reward,
    "dpo": Dpo,
    "orpo": Orpo,
    "kto": Kto,
    "ppo": Ppo,
    "grpo": Grpo,
    "rloo": Rloo,
    "online_dpo": OnlineDpo,
}

__all__ = ["OBJECTIVES", "Loss", "Objective", "PolicyObjective"]
