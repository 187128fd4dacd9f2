"""Direct preference optimisation on the model's own answers (Guo et al. 2024, arXiv:2402.04792).

Two answers to each prompt are sampled and rewarded; the better one is the chosen, and a pair's loss is that of DPO,

    -log sigmoid(beta h),   h = log p(chosen)/p0(chosen) - log p(rejected)/p0(rejected),   p0 the model before training.

Two answers of equal reward are no pair: they have no gradient.
"""

from typing import Any

import torch

from luthier.models.batch import Batch
from luthier.models.logprobs import batch_logprobs, row_sums
from luthier.train.experience import Experience
from luthier.train.objectives.dpo import sigmoid
from luthier.train.objectives.objective import Loss, pairs
from luthier.train.objectives.policy import PolicyObjective


class OnlineDpo(PolicyObjective):
    """Summed loss of pairs, which are neighbouring rows; the units are pairs, those without a gradient too."""

    group = 2
    weighted = False

    @property
    def anchored(self) -> bool:
        """Always: a pair is compared with the model before training."""
        return True

    @property
    def penalty(self) -> float:
        """How strongly the policy is held to where it began."""
        return float(self.section.beta)

    def prepare(self, experience: Experience) -> None:
        """1 for the better answer of a pair, -1 for the other, 0 for both of equal reward."""
        first, second = pairs(experience.facts["scores"])
        experience.facts["verdicts"] = torch.stack([(first - second).sign(), (second - first).sign()], 1).flatten()

    def units(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.numbers) / 2

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss; `accuracy` counts the pairs whose better answer has the higher ratio p/p0, ties half."""
        logprobs = batch_logprobs(model, batch, self.section.temperature)
        (reference,) = self.experience.of(batch, "reference")
        verdicts = self.experience.facts["verdicts"][batch.numbers.cpu()].to(batch.ids.device)
        first, second = pairs(verdicts * row_sums(logprobs - reference, batch))
        gap = first + second
        loss = sigmoid(self.section.beta * gap, 0.0) * pairs(verdicts)[0].abs()
        told = gap.detach()
        return Loss(loss.sum(), {"accuracy": ((told.sign() + 1) / 2).sum(), "margin": self.section.beta * told.sum()})
