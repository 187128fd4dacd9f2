"""Supervised fine-tuning: the negative log-likelihood of the trained tokens."""

from typing import Any

import torch

from luthier.models.batch import Batch
from luthier.models.logprobs import batch_logprobs


class Sft:
    """Loss = -sum over trained tokens t of log p(t | what stands before t in its row); the units are trained tokens."""

    def units(self, batch: Batch) -> int:
        """Trained tokens."""
        return len(batch.targets)

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Summed negative log-likelihood, in nats."""
        return -batch_logprobs(model, batch).sum()
