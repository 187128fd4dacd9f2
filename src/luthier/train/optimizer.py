"""The optimizer and its learning rate."""

import math
from typing import TYPE_CHECKING, Any

import torch

from luthier.errors import Missing

if TYPE_CHECKING:
    from luthier.train.loop import LoopSettings

FLOOR = 0.1
"""Share of the peak rate at which a falling schedule ends."""


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def rate(step: int, steps: int, settings: "LoopSettings") -> float:
    """Learning rate of update `step` (from 0): a linear warm-up, then the schedule, down to a tenth of the peak."""
    rise = max(1, round(settings.warmup * steps)) if settings.warmup else 0
    if step < rise:
        return settings.learning_rate * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[settings.schedule]
    return settings.learning_rate * (FLOOR + (1 - FLOOR) * shape)


def make_optimizer(model: torch.nn.Module, settings: "LoopSettings") -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); vectors (norms, biases) are not decayed.

    A group's `factor` multiplies the rate: LoRA+ lets B learn faster than A.

    Raises:
        Missing: 8 bits are asked for and bitsandbytes is not installed.
    """
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in trainable(model).items():
        fast = settings.lora_plus != 1.0 and "lora_B" in name
        groups.setdefault((parameter.ndim > 1, fast), []).append(parameter)
    asked: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if matrix else 0.0,
            "factor": settings.lora_plus if fast else 1.0,
        }
        for (matrix, fast), parameters in groups.items()
    ]
    if settings.optimizer == "adamw_8bit":
        return _eight_bits(asked, settings.betas)
    return torch.optim.AdamW(asked, lr=0.0, betas=settings.betas, fused=True)


def _eight_bits(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW with both moments in 8 bits, block by block (Dettmers et al. 2022, arXiv:2110.02861)."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise Missing("optimizer 'adamw_8bit' needs bitsandbytes", fix="pip install 'luthier[qlora]'") from error
    return AdamW8bit(groups, lr=0.0, betas=betas)  # type: ignore[no-any-return]
