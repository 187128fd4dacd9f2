"""What the loop asks of an objective."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from luthier.models.batch import Batch
from luthier.text import TokenRows

Logprobs = Callable[[list[int]], tuple[torch.Tensor, Batch]]
"""Row numbers -> log-probability [rows] of each row's trained tokens, without gradient, and their batch."""


class Loss(NamedTuple):
    """Sums over the units of a batch: the loss, and what else is worth watching (detached). All on the device."""

    total: torch.Tensor
    metrics: Mapping[str, torch.Tensor] = MappingProxyType({})


class Objective:
    """A loss that is a sum over units; the loop divides by the units of the whole update.

    So a token (or a pair) weighs the same whatever micro-batch it fell into. An objective is made from its section of
    the recipe.
    """

    group = 1
    """How many neighbouring rows belong together and go through the model in one pass."""
    shares = False
    """Whether both rows of a pair are computed in one pass, so that what they begin with can be computed once."""
    reference = False
    """Whether the log-probabilities of the model before training are needed."""
    fresh = False
    """Whether it learns from answers that the model writes while it is trained."""
    scores = False
    """Whether the model has one score as its output instead of the next token."""

    def __init__(self, section: Any) -> None:
        self.section = section

    def rows(self, rows: TokenRows) -> TokenRows:
        """The rows as this objective trains them."""
        return rows

    def learned(self, numbers: Sequence[int]) -> list[int]:
        """Of the rows of a micro-batch, those that the loss is computed on."""
        return list(numbers)

    def begin(self, numbers: Sequence[Sequence[int]], logprobs: Logprobs, total: Callable[[Any], Any]) -> None:
        """Find out what has to be known of the whole update before its first micro-batch.

        `numbers` are the rows of each micro-batch of this process, and `total` sums a tensor over all processes.
        """

    def units(self, batch: Batch) -> float:
        """What the batch contributes to the divisor."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch) -> Loss:
        """The summed loss of a batch."""
        raise NotImplementedError


def pairs(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [rows] of interleaved pairs as those of the chosen and of the rejected rows."""
    return values[0::2], values[1::2]
