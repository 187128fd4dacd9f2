"""Section `objective`: what is optimised."""

from typing import Literal

from luthier.recipe.section import Section


class Sft(Section):
    """Supervised fine-tuning: the mean negative log-likelihood of the trained tokens."""

    kind: Literal["sft"] = "sft"
    """Supervised fine-tuning."""


Objective = Sft
