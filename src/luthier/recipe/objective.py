"""Section `objective`: what is optimised."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.recipe.policy import Grpo, OnlineDpo, Ppo, Rloo
from luthier.recipe.section import Section

RowKind = Literal["examples", "prompts", "pairs", "ratings"]
"""What an objective learns from: answers to imitate, prompts that the model answers itself (an answer that the row has
is what it is compared with), pairs of a chosen and a rejected answer, or rated answers."""


class Sft(Section):
    """Supervised fine-tuning: the mean negative log-likelihood of the trained tokens."""

    rows: ClassVar[RowKind] = "examples"
    kind: Literal["sft"] = "sft"
    """Supervised fine-tuning."""


class Text(Section):
    """Continued pre-training: the mean negative log-likelihood of every token."""

    rows: ClassVar[RowKind] = "examples"
    kind: Literal["text"]
    """Continued pre-training on documents: every token is trained."""


class Reward(Section):
    """A reward model: the score of the chosen answer above that of the rejected one (Bradley & Terry 1952)."""

    rows: ClassVar[RowKind] = "pairs"
    kind: Literal["reward"]
    """A model that gives an answer a score, from pairs."""
    margin: bool = True
    """Ask for scores apart by at least the margin of the pair, where the data has one (Touvron et al. 2023, Llama 2,
    arXiv:2307.09288)."""
    centring: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared sum of both scores, which keeps them around zero (Eisenstein et al. 2023,
    arXiv:2312.09244; they take 0.01)."""


class Dpo(Section):
    """Direct preference optimisation: the chosen answer becomes likelier than the rejected one, from pairs."""

    rows: ClassVar[RowKind] = "pairs"
    kind: Literal["dpo"]
    """Preference optimisation from pairs (Rafailov et al. 2023, arXiv:2305.18290)."""
    loss: Literal["sigmoid", "ipo", "hinge", "robust", "simpo"] = "sigmoid"
    """`sigmoid`: DPO; with `label_smoothing` conservative DPO. `ipo`: Azar et al. 2023 (arXiv:2310.12036), on means per
    token. `hinge`: Zhao et al. 2023 (SLiC, arXiv:2305.10425). `robust`: Chowdhury et al. 2024 (arXiv:2403.00409), for
    verdicts of which some are wrong. `simpo`: Meng et al. 2024 (arXiv:2405.14734), without a reference."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """How strongly the model is held to where it began; 0.1 when not given, 2 for `simpo`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of verdicts taken to be the wrong way round. For `sigmoid` and `robust`."""
    gamma: Annotated[float, Field(ge=0)] | None = None
    """Margin by which the chosen answer is to be ahead, for `simpo`; 1 when not given."""

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> "Dpo":
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError(f"objective.label_smoothing has no effect with loss '{self.loss}'; remove one of them")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("objective.loss=robust needs objective.label_smoothing, the share of wrong verdicts")
        if self.gamma is not None and self.loss != "simpo":
            raise ValueError(f"objective.gamma has no effect with loss '{self.loss}'; remove one of them")
        return self


class Orpo(Section):
    """Odds-ratio preference optimisation: SFT on the chosen answers, with the odds of the rejected ones held down."""

    rows: ClassVar[RowKind] = "pairs"
    kind: Literal["orpo"]
    """Preferences and answers learned at once from pairs, without a reference (Hong et al. 2024, arXiv:2403.07691)."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the odds-ratio term."""


class Kto(Section):
    """Kahneman-Tversky optimisation: from single answers with a verdict."""

    rows: ClassVar[RowKind] = "ratings"
    kind: Literal["kto"]
    """Preference optimisation from answers that are each wanted or unwanted (Ethayarajh et al. 2024,
    arXiv:2402.01306)."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held to where it began."""
    desirable: Annotated[float, Field(gt=0)] = 1.0
    """Weight of wanted answers."""
    undesirable: Annotated[float, Field(gt=0)] = 1.0
    """Weight of unwanted answers."""


Objective = Annotated[
    Sft | Text | Reward | Dpo | Orpo | Kto | Ppo | Grpo | Rloo | OnlineDpo, Field(discriminator="kind")
]
