"""Supervised fine-tuning: the negative log-likelihood of the trained tokens."""

from typing import Any

from luthier.models.batch import Batch
from luthier.models.logprobs import batch_logprob_sum
from luthier.train.objectives.objective import Loss, Objective


class Sft(Objective):
    """Loss = -sum over trained tokens t of log p(t | what stands before t in its row); the units are trained tokens."""

    def units(self, batch: Batch) -> int:
        """Trained tokens."""
        return len(batch.targets)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed negative log-likelihood, in nats."""
        return Loss(-batch_logprob_sum(model, batch))
