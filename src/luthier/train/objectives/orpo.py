"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691), from pairs, without a reference."""

from typing import Any

import torch
import torch.nn.functional as F

from luthier.models.batch import Batch
from luthier.models.logprobs import batch_logprobs, row_sums
from luthier.train.objectives.objective import Loss, Objective, pairs


class Orpo(Objective):
    """Loss = sum over pairs of -m(chosen) - beta log sigmoid(logodds(chosen) - logodds(rejected)).

    m is the mean log-probability per token (equation 3) and logodds = m - log(1 - exp(m)) (equation 4). The units are
    pairs.
    """

    group = 2
    shares = True

    def units(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch.numbers) // 2

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss; `accuracy` counts the pairs whose chosen answer has the higher odds."""
        sums = row_sums(batch_logprobs(model, batch), batch)
        chosen, rejected = pairs(sums / torch.bincount(batch.rows, minlength=len(sums)))
        gap = _log_odds(chosen) - _log_odds(rejected)
        loss = -chosen - self.section.beta * F.logsigmoid(gap)
        return Loss(loss.sum(), {"accuracy": (gap > 0).float().sum(), "margin": gap.detach().sum()})


def _log_odds(mean: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of p = exp(mean); exact near p = 1 and p = 0."""
    mean = mean.clamp(max=-torch.finfo(mean.dtype).tiny)
    rest = torch.where(mean > -0.693, torch.log(-torch.expm1(mean)), torch.log1p(-torch.exp(mean)))
    return mean - rest
