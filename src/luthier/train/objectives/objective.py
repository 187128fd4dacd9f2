"""What the loop asks of an objective."""

from typing import Any, Protocol

import torch

from luthier.models.batch import Batch


class Objective(Protocol):
    """A loss that is a sum over units; the loop divides by the units of the whole update.

    So a token (or a pair) weighs the same whatever micro-batch it fell into.
    """

    def units(self, batch: Batch) -> int:
        """What the batch contributes to the divisor."""

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """The summed loss, a scalar on the device."""
