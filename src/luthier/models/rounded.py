"""A frozen base in 8 bits while adapters beside it are trained: `tuning.base: int8` on a CPU, `fp8` on a GPU.

Weights are rounded once, with one scale for each output channel; inputs are rounded as they come, with one scale for
each token, and so are the gradients on their way back (Wortsman et al. 2023, "Stable and low-precision training",
arXiv:2304.13013, round likewise). With W = diag(s) Q, a row x and its gradient dy:

    x W' = c (q Q') diag(s)          q = round(x / c), c = max |x| / 127
    dy W = c (q Q)                   q = round(dy diag(s) / c)

The adapters' own products and gradients stay as exact as without. Where a machine multiplies 8-bit integers no faster
than float32 (CPUs without VNNI or AMX), weights are rounded all the same, to a quarter of the memory, and multiplied in
float32: inputs are not rounded then. Only training sees the rounded base; what is evaluated and released has the
adapters beside the weights as they were.
"""

from collections import Counter
from typing import Any

import torch

from luthier.errors import RecipeError
from luthier.models.fast_lora import Frozen, lora_layers
from luthier.models.mapped import give_back, span, weight_files

WIDEST = 127
LARGEST_FP8 = 448.0
"""Largest number of float8 e4m3."""
FP8_SIDE, INT8_SIDE, INT8_ROWS = 16, 8, 17
"""What the kernels of GPUs ask for: sides of a weight as multiples of these, and so many rows at least."""


def _rows(x: torch.Tensor, widest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row scaled so that its largest number is `widest`, and what a scaled one stands for [n, 1], float32."""
    scale = torch.linalg.vector_norm(x.float(), torch.inf, dim=1, keepdim=True).clamp_(min=1e-12).div_(widest)
    return x / scale.to(x.dtype), scale


class Int8(Frozen):
    """A weight in 8-bit integers."""

    def __init__(self, weight: torch.Tensor, *, multiplies: bool) -> None:
        scaled, scale = _rows(weight, WIDEST)
        self.whole, self.scale = scaled.round_().to(torch.int8), scale[:, 0]
        self.exact_only = not multiplies

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The rounded weight."""
        return self.whole.to(dtype).mul_(self.scale[:, None].to(dtype))

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """In integers, where they are faster."""
        if self.exact_only or not self._kernel_takes(x):
            return super().product(x)
        scaled, scale = _rows(x, WIDEST)
        found = torch._int_mm(scaled.round_().to(torch.int8), self.whole.t())
        return found.float().mul_(scale).mul_(self.scale).to(x.dtype)

    def transposed(self, dy: torch.Tensor) -> torch.Tensor:
        """In integers, where they are faster."""
        if self.exact_only or not self._kernel_takes(dy):
            return super().transposed(dy)
        scaled, scale = _rows(dy * self.scale.to(dy.dtype), WIDEST)
        return torch._int_mm(scaled.round_().to(torch.int8), self.whole).float().mul_(scale).to(dy.dtype)

    def _kernel_takes(self, x: torch.Tensor) -> bool:
        return not x.is_cuda or (len(x) >= INT8_ROWS and not any(side % INT8_SIDE for side in self.whole.shape))


class Fp8(Frozen):
    """A weight in float8 e4m3, for GPUs that multiply it (Ada, Hopper and later)."""

    exact_only = False

    def __init__(self, weight: torch.Tensor) -> None:
        scaled, scale = _rows(weight, LARGEST_FP8)
        self.whole, self.scale = scaled.to(torch.float8_e4m3fn), scale[:, 0]

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The rounded weight."""
        return self.whole.to(dtype).mul_(self.scale[:, None].to(dtype))

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """One scale a row on either side."""
        return self._multiply(x, self.whole.t(), self.scale[None])

    def transposed(self, dy: torch.Tensor) -> torch.Tensor:
        """The kernel wants the second matrix column by column: its bytes are turned for this one product."""
        turned = self.whole.t().contiguous().t()
        ones = torch.ones(1, turned.shape[1], device=dy.device)
        return self._multiply(dy * self.scale.to(dy.dtype), turned, ones)

    def _multiply(self, x: torch.Tensor, matrix: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        scaled, scale = _rows(x, LARGEST_FP8)
        given = scaled.to(torch.float8_e4m3fn)
        out = torch.bfloat16 if x.dtype == torch.float32 else x.dtype
        return torch._scaled_mm(given, matrix, scale, columns, out_dtype=out, use_fast_accum=True).to(x.dtype)


class Rounded(torch.nn.Module):
    """The layer beside which the adapters lie; `weight` is empty, the numbers are in `frozen`."""

    def __init__(self, layer: Any, frozen: Frozen) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.frozen, self.bias = frozen, layer.bias
        self.weight = torch.empty(0, dtype=layer.weight.dtype, device=layer.weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As without adapters."""
        return _Product.apply(x, self.frozen) + (0 if self.bias is None else self.bias)  # type: ignore[no-any-return, no-untyped-call]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: Frozen) -> torch.Tensor:
        ctx.frozen = frozen
        flat = x.reshape(-1, x.shape[-1])
        y = frozen.product(flat)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        dx = ctx.frozen.transposed(dy.reshape(-1, dy.shape[-1]))
        return dx.view(*dy.shape[:-1], dx.shape[-1]), None


def can_fp8() -> bool:
    """Whether this machine's GPU multiplies float8."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9) and hasattr(torch, "_scaled_mm")


def round_base(model: torch.nn.Module, how: str, *, multiplies: bool) -> int:
    """Round the frozen weights beside LoRA adapters, in place; nothing else of the model changes.

    Args:
        model: with PEFT's LoRA adapters.
        how: `int8` or `fp8`.
        multiplies: whether this machine multiplies 8-bit integers faster than float32.

    Returns:
        How many layers were rounded; in fp8 those with a side that the kernel does not take stay exact.

    Raises:
        RecipeError: `fp8` on a machine that cannot.
    """
    if how == "fp8" and not can_fp8():
        raise RecipeError(
            "tuning.base=fp8 needs a GPU that multiplies float8: Ada, Hopper or later",
            where="tuning.base",
            fix="tuning.base=exact, or int8 on a CPU",
        )
    count, files = 0, weight_files()
    owners = Counter(p.data_ptr() for p in model.parameters())
    for _, _, layer in lora_layers(model):
        base = layer.base_layer
        if type(base) is torch.nn.Linear and not base.weight.requires_grad:
            weight = base.weight.detach()
            if how == "fp8" and any(side % FP8_SIDE for side in weight.shape):
                continue  # stays exact
            frozen = Fp8(weight) if how == "fp8" else Int8(weight, multiplies=multiplies)
            layer.base_layer = Rounded(base, frozen)
            if owners[weight.data_ptr()] == 1:
                give_back(span(weight), files)
            count += 1
    return count


def rounds_inputs(model: torch.nn.Module) -> bool:
    """Whether some layers round their inputs too, so that equal rows may differ a little from batch to batch."""
    return any(isinstance(m, Rounded) and not m.frozen.exact_only for m in model.modules())
