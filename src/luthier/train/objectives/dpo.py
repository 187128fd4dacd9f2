"""Direct preference optimisation and its variants, from pairs.

With h = log p(chosen)/p0(chosen) - log p(rejected)/p0(rejected), p0 the model before training, s the label smoothing:

| loss | per pair | source |
| --- | --- | --- |
| sigmoid | -(1-s) log sigmoid(beta h) - s log sigmoid(-beta h) | Rafailov et al. 2023, equation 7; s: Mitchell 2023 |
| robust | [-(1-s) log sigmoid(beta h) + s log sigmoid(-beta h)] / (1-2s) | Chowdhury et al. 2024, equation 12 |
| hinge | max(0, 1 - beta h) | Zhao et al. 2023; Liu et al. 2023 (arXiv:2309.06657) |
| ipo | (h' - 1/(2 beta))^2, h' with means per token in place of sums | Azar et al. 2023, equation 17 |
| simpo | -log sigmoid(beta d - gamma), d = difference of the means per token, no p0 | Meng et al. 2024, equation 6 |
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from luthier.models.batch import Batch
from luthier.models.logprobs import batch_logprobs, row_sums
from luthier.recipe import Dpo as Section
from luthier.train.objectives.objective import Loss, Objective, pairs


def sigmoid(x: torch.Tensor, smoothing: float) -> torch.Tensor:
    """DPO; conservative DPO with smoothing."""
    return -(1 - smoothing) * F.logsigmoid(x) - smoothing * F.logsigmoid(-x)


def robust(x: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Unbiased when a share of `smoothing` of the verdicts is flipped."""
    return (-(1 - smoothing) * F.logsigmoid(x) + smoothing * F.logsigmoid(-x)) / (1 - 2 * smoothing)


def hinge(x: torch.Tensor, _: float) -> torch.Tensor:
    """SLiC's margin."""
    return F.relu(1 - x)


def ipo(x: torch.Tensor, _: float) -> torch.Tensor:
    """Identity preference optimisation; x = beta h', and (h' - 1/(2 beta))^2 = (x - 1/2)^2 / beta^2."""
    return (x - 0.5).square()


VARIANTS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "sigmoid": sigmoid,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "simpo": sigmoid,
}


class Dpo(Objective):
    """A sum over pairs of one of the `VARIANTS`; the units are pairs."""

    group = 2
    shares = True

    def __init__(self, section: Section) -> None:
        super().__init__(section)
        self.kind = section.loss
        self.beta = section.beta or (2.0 if section.loss == "simpo" else 0.1)
        self.gamma = (1.0 if section.gamma is None else section.gamma) if section.loss == "simpo" else 0.0
        self.reference = section.loss != "simpo"

    def units(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch.numbers) // 2

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss; `accuracy` counts the pairs whose chosen answer has the higher reward beta log p/p0."""
        policy = row_sums(batch_logprobs(model, batch), batch)
        ratios = policy - batch.reference
        if self.kind in ("ipo", "simpo"):
            ratios = ratios / torch.bincount(batch.rows, minlength=len(policy))
        chosen, rejected = pairs(self.beta * ratios)
        loss = VARIANTS[self.kind](chosen - rejected - self.gamma, self.section.label_smoothing)
        if self.kind == "ipo":
            loss = loss / self.beta**2
        gap = (chosen - rejected).detach()
        watched = {"accuracy": (gap > 0).float().sum(), "margin": gap.sum()}
        for name, values in zip(("chosen", "rejected"), pairs(policy.detach()), strict=True):
            watched[f"logprob_{name}"] = values.sum()
        return Loss(loss.sum(), watched)
