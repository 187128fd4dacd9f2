"""Section `objective`: what is optimised."""

from typing import ClassVar, Literal

from luthier.recipe.section import Section

RowKind = Literal["examples", "pairs", "ratings"]
"""What an objective learns from: answers to imitate, pairs of a chosen and a rejected answer, or rated answers."""


class Sft(Section):
    """Supervised fine-tuning: the mean negative log-likelihood of the trained tokens."""

    rows: ClassVar[RowKind] = "examples"
    kind: Literal["sft"] = "sft"
    """Supervised fine-tuning."""


Objective = Sft
