"""Log-probabilities from the output head, their gradient made in the forward pass.

With W [V, h] the head, z = W x the logits of a state x and p = softmax(z), the log-probability of token t has

    d log p(t) / d x = W[t] - p W

for each state by itself: whatever the objective does with the log-probabilities only scales these rows. So one chunk's
logits give both, and no later pass makes them again: 4 V h operations a label where making them again takes 6 V h.

A head that learns adds the gradient of W, a sum over labels, for which their weights have to be known: where the loss
is the plain sum of the log-probabilities, they are all one, so that too is made on the way (6 V h instead of 8 V h).
Logits are float32 from the product on, and never held for more than a chunk; sums over chunks are float32.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class Bend:
    """What some families do to the logits, and the temperature: y = cap tanh(scale z / cap) / temperature."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    @classmethod
    def of(cls, config: Any, temperature: float = 1.0) -> "Bend":
        """As the model's config says, at the temperature that answers are sampled at."""
        scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
        scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
        return cls(float(scale), getattr(config, "final_logit_softcapping", None), temperature)  # Gemma 2 and 3

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Bent logits, in the format they came in."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits if self.temperature == 1.0 else logits / self.temperature

    def slope_(self, gradient: torch.Tensor, bent: torch.Tensor | None) -> torch.Tensor:
        """The gradient of bent logits as that of plain ones, in place."""
        if self.cap is not None and bent is not None:
            gradient.mul_(1 - (bent * (self.temperature / self.cap)).square())
        slope = self.scale / self.temperature
        return gradient.mul_(slope) if slope != 1.0 else gradient


def _slopes(bent: torch.Tensor, at: torch.Tensor, bend: Bend, wanted: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities [labels] of the tokens `at` [labels, 1] and, if wanted, the gradient [labels, V] of logits."""
    kept = bent if wanted and bend.cap is not None else None
    logprobs = torch.log_softmax(bent, dim=-1)
    found = logprobs.gather(1, at)[:, 0]
    if not wanted:
        return found, None
    odds = logprobs.exp_().neg_().scatter_add_(1, at, torch.ones_like(at, dtype=torch.float32))
    return found, bend.slope_(odds, kept)


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        bend: Bend,
        rows: int,
    ) -> torch.Tensor:
        place = hidden.device.type
        compute = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else weight.dtype
        wanted = ctx.needs_input_grad[0]
        found = hidden.new_empty(len(targets), dtype=torch.float32)
        # In the format of the states: as exact as the gradient that a plain product would give.
        slopes = torch.empty_like(hidden) if wanted else None
        with torch.autocast(place, enabled=False):
            matrix, shift = weight.to(compute), None if bias is None else bias.to(compute)
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                states, at = hidden[part].to(compute), targets[part, None]
                found[part], odds = _slopes(bend.apply(F.linear(states, matrix, shift).float()), at, bend, wanted)
                if slopes is not None and odds is not None:
                    slopes[part] = odds.to(compute) @ matrix
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return (slopes * gradient[:, None]).to(slopes.dtype), None, None, None, None, None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        bend: Bend,
        rows: int,
    ) -> torch.Tensor:
        place = hidden.device.type
        compute = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else weight.dtype
        total = torch.zeros((), device=hidden.device)
        slopes = torch.empty_like(hidden)
        learned = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        shifted = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        with torch.autocast(place, enabled=False):
            matrix, shift = weight.to(compute), None if bias is None else bias.to(compute)
            for start in range(0, len(targets), rows):
                states, at = hidden[start : start + rows].to(compute), targets[start : start + rows, None]
                logprobs, odds = _slopes(bend.apply(F.linear(states, matrix, shift).float()), at, bend, wanted=True)
                assert odds is not None
                total += logprobs.sum()
                if shifted is not None:
                    shifted += odds.sum(0)
                odds = odds.to(compute)
                slopes[start : start + rows] = odds @ matrix
                if compute == torch.float32:
                    learned.addmm_(odds.T, states)
                else:
                    learned += odds.T @ states
        ctx.save_for_backward(slopes, learned, *([] if shifted is None else [shifted]))
        ctx.kinds = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        slopes, learned, *shifted = ctx.saved_tensors
        weight, bias = ctx.kinds
        return (
            (slopes * gradient).to(slopes.dtype) if ctx.needs_input_grad[0] else None,
            (learned * gradient).to(weight) if ctx.needs_input_grad[1] else None,
            (shifted[0] * gradient).to(bias) if shifted and ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def summed_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    bend: Bend,
    rows: int,
) -> torch.Tensor:
    """The sum of what `frozen_logprobs` gives, as a scalar; differentiable in the head too, once."""
    return _Summed.apply(hidden, weight, bias, targets, bend, rows)  # type: ignore[no-any-return, no-untyped-call]


def frozen_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    bend: Bend,
    rows: int,
) -> torch.Tensor:
    """Log-probability [labels] of each target, float32; differentiable in `hidden`, once.

    Args:
        hidden: [labels, hidden] states that predict the targets.
        weight: [vocabulary, hidden], frozen.
        bias: [vocabulary] or None, frozen.
        targets: [labels] token ids.
        bend: what becomes of the logits.
        rows: labels whose logits are held at a time.
    """
    return _Frozen.apply(hidden, weight, bias, targets, bend, rows)  # type: ignore[no-any-return, no-untyped-call]


def is_plain(head: Any) -> bool:
    """Whether the head is a plain matrix, without adapters or a wrapper."""
    return type(head) is torch.nn.Linear


def is_frozen(head: Any) -> bool:
    """Whether it is a plain matrix that does not learn."""
    return is_plain(head) and not any(p.requires_grad for p in head.parameters())
