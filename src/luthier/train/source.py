"""Where the loop's rows come from: settled before training, or sampled from the model as it is trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from luthier.text import TokenRows
from luthier.train.batches import Update

Tensors = Mapping[str, torch.Tensor]
Mean = Callable[[TokenRows], tuple[float, dict[str, float]]]
"""Rows -> the objective's mean loss per unit over them, and the means of what else it watches."""


class Source:
    """What the loop asks for its rows. Everything that a resumed run needs to give the same rows is in its state."""

    fresh = False
    """Whether the rows are made while training, from the model itself."""

    def __len__(self) -> int:
        """Updates of the whole run."""
        raise NotImplementedError

    def update(self, step: int) -> tuple[TokenRows, Update]:
        """The rows at hand and, in their numbers, the micro-batches of update `step` (from 0)."""
        raise NotImplementedError

    def validate(self, step: int, mean: Mean) -> tuple[float, dict[str, float]]:
        """A loss on what is held out, and what else is worth noting; the weights with the lowest loss are kept."""
        raise NotImplementedError

    def due(self, step: int) -> bool:  # noqa: ARG002 - a settled source has nothing to look at in between
        """Whether to validate now, after update `step`, out of turn."""
        return False

    def why_stop(self) -> str | None:
        """A reason to end the run, found since the last validation."""
        return None

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What a checkpoint has to hold: tensors, and JSON."""
        return {}, {}

    def restore(self, tensors: Tensors, facts: Mapping[str, Any]) -> None:
        """Go back to a state."""


class Settled(Source):
    """Rows and updates that are known beforehand, so that there is no state."""

    def __init__(self, rows: TokenRows, validation: TokenRows, updates: Sequence[Update]) -> None:
        self.rows, self.validation, self.updates = rows, validation, updates

    def __len__(self) -> int:
        return len(self.updates)

    def update(self, step: int) -> tuple[TokenRows, Update]:
        """All rows, and which of them are next."""
        return self.rows, self.updates[step]

    def validate(self, step: int, mean: Mean) -> tuple[float, dict[str, float]]:  # noqa: ARG002 - always the same rows
        """The mean over the validation rows."""
        return mean(self.validation)
