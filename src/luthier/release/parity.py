"""Parity: the model about to be released answers as the trained one does.

Both answer the same prompts greedily: the token ids must be equal. Then both score the same answers: the logits must
agree within a bound that stands for rounding alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from luthier.errors import ParityFailed
from luthier.models.generate import generate
from luthier.text.tokenizer import Tokenizer

BOUNDS = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference of a logit, by the format the released weights are saved in."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared and how it came out."""

    prompts: int
    tokens_compared: int
    tokens_equal: bool
    largest_difference: float
    bound: float
    first_difference: str | None = None

    @property
    def holds(self) -> bool:
        """True when the released model is the trained one."""
        return self.tokens_equal and self.largest_difference <= self.bound

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {**asdict(self), "holds": self.holds}

    def require(self) -> None:
        """Raise unless it holds.

        Raises:
            ParityFailed: with what differs first.
        """
        if not self.tokens_equal:
            raise ParityFailed(
                f"the released model answers otherwise than the trained one: {self.first_difference}",
                where="parity",
                fix="release.dtype=float32 keeps every bit of the merge",
            )
        if not self.holds:
            raise ParityFailed(
                f"logits differ by up to {self.largest_difference:.3g}; the bound is {self.bound:g}",
                where="parity",
                fix="release.dtype=float32 keeps every bit of the merge",
            )


def compare(
    trained: Any,
    released: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    stop: Sequence[int],
    max_new_tokens: int,
    dtype: str,
) -> Parity:
    """Compare two models on tokenised prompts."""
    first, second = (
        generate(model, tokenizer, prompts, stop=stop, max_new_tokens=max_new_tokens) for model in (trained, released)
    )
    differing = [(a, b) for a, b in zip(first, second, strict=True) if (a.ids, a.stopped) != (b.ids, b.stopped)]
    largest = 0.0
    for prompt, answer in zip(prompts, first, strict=True):
        gap = _logits(trained, prompt + answer.ids) - _logits(released, prompt + answer.ids)
        largest = max(largest, gap.abs().max().item())
    shown = f"{differing[0][0].text!r} became {differing[0][1].text!r}" if differing else None
    tokens = sum(len(a.ids) for a in first)
    return Parity(len(prompts), tokens, not differing, largest, BOUNDS[dtype], shown)


@torch.no_grad()
def compare_scores(trained: Any, released: Any, rows: Sequence[list[int]], dtype: str) -> Parity:
    """Compare two reward models on tokenised rows: no score may differ by more than rounding."""
    largest = 0.0
    for ids in rows:
        inputs = torch.tensor([ids], device=next(trained.parameters()).device)
        scores = (model.eval()(input_ids=inputs, use_cache=False).logits.float() for model in (trained, released))
        first, second = scores
        largest = max(largest, (first - second).abs().max().item())
    return Parity(len(rows), 0, True, largest, BOUNDS[dtype])


@torch.no_grad()
def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    place = next(model.parameters()).device
    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=place), use_cache=False).logits
    return logits.float()
