"""Parity of reward models: the same scores for the same rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from luthier.errors import ParityFailed

BOUNDS = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference of a score, by the format the released weights are saved in."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared and how it came out."""

    prompts: int
    largest_difference: float
    bound: float
    tokens_compared: int = 0
    tokens_equal: bool = True

    @property
    def holds(self) -> bool:
        """True when the released model is the trained one."""
        return self.largest_difference <= self.bound

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {**asdict(self), "holds": self.holds}

    def require(self) -> None:
        """Raise unless it holds.

        Raises:
            ParityFailed: with what differs.
        """
        if not self.holds:
            raise ParityFailed(
                f"scores differ by up to {self.largest_difference:.3g}; the bound is {self.bound:g}",
                where="parity",
                fix="release.dtype=float32 keeps every bit of the merge",
            )


@torch.no_grad()
def compare_scores(trained: Any, released: Any, rows: Sequence[list[int]], dtype: str) -> Parity:
    """Compare two reward models on tokenised rows: no score may differ by more than rounding."""
    largest = 0.0
    for ids in rows:
        inputs = torch.tensor([ids], device=next(trained.parameters()).device)
        scores = (model.eval()(input_ids=inputs, use_cache=False).logits.float() for model in (trained, released))
        first, second = scores
        largest = max(largest, (first - second).abs().max().item())
    return Parity(len(rows), largest, BOUNDS[dtype])
