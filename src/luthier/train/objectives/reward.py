"""A reward model from pairs (Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, equation 1)."""

from typing import Any

import torch
import torch.nn.functional as F

from luthier.models.batch import Batch
from luthier.models.logprobs import batch_scores
from luthier.train.objectives.objective import Loss, Objective, pairs


class Reward(Objective):
    """Loss = -sum over pairs of log sigmoid(s(chosen) - s(rejected) - margin) + centring (s(chosen) + s(rejected))^2.

    s is read at a row's last token. The units are pairs.
    """

    group = 2
    shares = True
    scores = True

    def units(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch.numbers) // 2

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss; `accuracy` counts the pairs whose chosen answer has the higher score."""
        chosen, rejected = pairs(batch_scores(model, batch))
        gap = chosen - rejected
        wanted = pairs(batch.ratings)
        margin = wanted[0] - wanted[1] if self.section.margin else torch.zeros_like(gap)
        loss = -F.logsigmoid(gap - margin) + self.section.centring * (chosen + rejected).square()
        return Loss(loss.sum(), {"accuracy": (gap > 0).float().sum(), "margin": gap.detach().sum()})
