"""Objectives: what is optimised. Adding one is a file here and a line in `OBJECTIVES`."""

from luthier.train.objectives.objective import Objective
from luthier.train.objectives.sft import Sft

OBJECTIVES: dict[str, type[Objective]] = {"sft": Sft}

__all__ = ["OBJECTIVES", "Objective"]
