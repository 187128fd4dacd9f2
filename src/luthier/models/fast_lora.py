"""LoRA layers as one autograd function: base and low-rank parts in one pass, layers that read the same input together.

PEFT computes x W' in one product, s (x A') B' in two more, and adds two copies of the whole output. With W [out, in]
frozen, A [r, in], B [out, r] and s the scaling, this computes the same in one of two ways:

    merged   y = x (W + s B A)'            dx = dy (W + s B A)        in float32, where a product dwarfs the sum
    added    y = x W' + s (x A') B'        dx = dy W + s (dy B) A     summed into the product's own output

    both     dB = s dy' (x A')             dA = s (dy B)' x

The merged weight lives for one product only. Nothing but the input is kept for the backward pass, once for all layers
that read it (q, k and v; gate and up). DoRA (Liu et al. 2024, arXiv:2402.09353, equation 5, with the norm held
constant as in their section 4.3) scales the rows of the merged weight.

PEFT's modules, parameters and files stay; only their `forward` is replaced, and what is not covered here (several
adapters, other variants, DoRA with dropout, layers that are not linear) goes through PEFT's own.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one parent that model families call with the same input, in this order."""


class Frozen:
    """A frozen base weight that is not simply there as a matrix: quantised ones say how to multiply with them."""

    exact_only = True
    """Whether products go through `dense` alone."""

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out, in], made anew."""
        raise NotImplementedError

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The product x W' for x [n, in]."""
        return F.linear(x, self.dense(x.dtype))

    def transposed(self, dy: torch.Tensor) -> torch.Tensor:
        """The product dy W for dy [n, out]."""
        return dy @ self.dense(dy.dtype)


class FourBits(Frozen):
    """A layer of bitsandbytes in 4 bits: the weight is made whole for each product."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """Dequantised."""
        from bitsandbytes.functional import dequantize_4bit

        weight = self.layer.weight
        return dequantize_4bit(weight.data, weight.quant_state).to(dtype)  # type: ignore[no-any-return]


class _Part(NamedTuple):
    """One layer of a group, as far as it is no tensor."""

    scale: float
    dropout: float
    dora: bool
    frozen: Frozen | None


TENSORS = 5
"""Tensors a layer: weight or None, bias or None, A, B, magnitude or None."""


class _Adapted(torch.autograd.Function):
    """All layers of a group on one input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: tuple[_Part, ...], *tensors: torch.Tensor | None) -> Any:
        place = x.device.type
        compute = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else x.dtype
        with torch.autocast(place, enabled=False):
            flat = x.reshape(-1, x.shape[-1]).to(compute)
            kept: list[torch.Tensor | None] = [flat]
            outputs = []
            for number, part in enumerate(parts):
                given = tensors[TENSORS * number : TENSORS * (number + 1)]
                y, more = _forward(flat, part, given)
                kept += [*given, *more]
                outputs.append(y.view(*x.shape[:-1], y.shape[-1]))
        ctx.save_for_backward(*kept)
        ctx.parts, ctx.shape, ctx.dtype = parts, x.shape, x.dtype
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        flat, *kept = ctx.saved_tensors
        dx: torch.Tensor | None = None
        found: list[torch.Tensor | None] = []
        with torch.autocast(flat.device.type, enabled=False):
            for number, (part, dy) in enumerate(zip(ctx.parts, gradients, strict=True)):
                if dy is None:
                    found += [None] * TENSORS
                    continue
                own = kept[(TENSORS + KEPT) * number : (TENSORS + KEPT) * (number + 1)]
                dx, da, db, dm = _backward(
                    flat, dy.reshape(-1, dy.shape[-1]).to(flat.dtype), part, own, dx, ctx.needs_input_grad[0]
                )
                found += [None, None, da, db, dm]
        return (None if dx is None else dx.view(ctx.shape).to(ctx.dtype)), None, *found


KEPT = 3
"""Tensors kept beside the given ones: x A' of the added form, DoRA's output before scaling, the dropout's mask."""
_Given = tuple[torch.Tensor | None, ...]


def _merges(x: torch.Tensor, part: _Part, rows: int, columns: int) -> bool:
    """Whether to add the low-rank part to the weight: exact in float32 only, and cheaper for many tokens only."""
    plain = part.frozen is None or part.frozen.exact_only
    return plain and not part.dropout and x.dtype == torch.float32 and 2 * len(x) > min(rows, columns)


def _weight(weight: torch.Tensor | None, part: _Part, dtype: torch.dtype) -> torch.Tensor:
    if part.frozen is not None:
        return part.frozen.dense(dtype)
    assert weight is not None  # one of both is there
    return weight.to(dtype)


def _merged(weight: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, part: _Part) -> torch.Tensor:
    """W + s B A [out, in] in the format of A."""
    if part.frozen is not None:
        return part.frozen.dense(a.dtype).addmm_(b, a, alpha=part.scale)
    return torch.addmm(_weight(weight, part, a.dtype), b, a, alpha=part.scale)


def _base(x: torch.Tensor, weight: torch.Tensor | None, part: _Part) -> torch.Tensor:
    if part.frozen is not None:
        return part.frozen.product(x)
    return F.linear(x, _weight(weight, part, x.dtype))


def _row_norm(weight: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, part: _Part) -> torch.Tensor:
    """Length of each row of the merged weight, float32."""
    norm: torch.Tensor = torch.linalg.vector_norm(_merged(weight, a.float(), b.float(), part), dim=1)
    return norm


def _forward(x: torch.Tensor, part: _Part, given: _Given) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    weight, bias, a, b, magnitude = given
    assert a is not None
    assert b is not None
    low = mask = before = None
    if _merges(x, part, b.shape[0], a.shape[1]):
        y = F.linear(x, _merged(weight, a.to(x.dtype), b.to(x.dtype), part))
    else:
        seen = x
        if part.dropout:
            mask = F.dropout(torch.ones_like(x), part.dropout).bool()
            seen = x * mask / (1 - part.dropout)
        low = seen @ a.to(x.dtype).T
        y = _base(x, weight, part).addmm_(low, b.to(x.dtype).T, alpha=part.scale)
    if part.dora and magnitude is not None:
        before = y
        y = y * (magnitude / _row_norm(weight, a, b, part)).to(y.dtype)
    if bias is not None:
        y.add_(bias.to(y.dtype))
    return y, (low, before, mask)


def _backward(
    x: torch.Tensor,
    dy: torch.Tensor,
    part: _Part,
    kept: list[Any],
    dx: torch.Tensor | None,
    wanted: bool,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of x (added to `dx`), A, B and the magnitude."""
    weight, _, a_full, b_full, magnitude, low, before, mask = kept
    a, b, dm = a_full.to(x.dtype), b_full.to(x.dtype), None
    if part.dora and magnitude is not None:
        norm = _row_norm(weight, a_full, b_full, part)
        dm = ((dy * before).sum(0, dtype=torch.float32) / norm).to(magnitude.dtype)
        dy = dy * (magnitude / norm).to(dy.dtype)
    seen = x if mask is None else x * mask / (1 - part.dropout)
    narrow = dy @ b
    if wanted:
        if low is None:  # merged
            whole = _merged(weight, a, b, part)
            dx = dy @ whole if dx is None else dx.addmm_(dy, whole)
        else:
            if part.frozen is not None:
                through = part.frozen.transposed(dy)
                dx = through if dx is None else dx.add_(through)
            else:
                whole = _weight(weight, part, dy.dtype)
                dx = dy @ whole if dx is None else dx.addmm_(dy, whole)
            if mask is None:
                dx.addmm_(narrow, a, alpha=part.scale)
            else:
                dx.add_((narrow @ a) * mask, alpha=part.scale / (1 - part.dropout))
    da = (narrow.T @ seen).mul_(part.scale)
    db = (dy.T @ (seen @ a.T if low is None else low)).mul_(part.scale)
    return dx, da.to(a_full.dtype), db.to(b_full.dtype), dm


class _Group:
    """Layers that read one input; the first that is called computes all of them."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self.together = len(layers) > 1
        self.input: torch.Tensor | None = None
        self.waiting: dict[int, torch.Tensor] = {}

    def __call__(self, number: int, x: torch.Tensor) -> torch.Tensor:
        if self.waiting and number and self.input is x:
            y = self.waiting.pop(number)
            if not self.waiting:
                self.input = None
            return y
        if number and self.waiting:  # this family gives its layers different inputs
            self.together = False
        self.input, self.waiting = None, {}
        if number or not self.together or not all(covered(layer) for layer in self.layers):
            return _apply(x, [self.layers[number]])[0]  # type: ignore[no-any-return]
        first, *rest = _apply(x, self.layers)
        self.input, self.waiting = x, dict(enumerate(rest, 1))
        return first  # type: ignore[no-any-return]


def _apply(x: torch.Tensor, layers: list[Any]) -> Any:
    parts, tensors = [], []
    for layer in layers:
        base, name = layer.base_layer, layer.active_adapters[0]
        frozen = _frozen(base)
        dropout = layer.lora_dropout[name]
        p = float(dropout.p) if layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0
        dora = layer.lora_variant.get(name) is not None
        parts.append(_Part(float(layer.scaling[name]), p, dora, frozen))
        magnitude = layer.lora_magnitude_vector[name].weight if dora else None
        weight = base.weight if frozen is None else None
        tensors += [weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, magnitude]
    return _Adapted.apply(x, tuple(parts), *tensors)  # type: ignore[no-untyped-call]


def _frozen(base: Any) -> Frozen | None:
    """How to multiply with a base layer; None for a plain matrix."""
    if hasattr(base, "frozen"):
        return base.frozen  # type: ignore[no-any-return]
    return FourBits(base) if type(base).__name__ == "Linear4bit" else None


def covered(layer: Any) -> bool:
    """Whether this function computes what the layer would: one plain or DoRA adapter beside a frozen linear layer."""
    names = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] not in layer.lora_A:
        return False
    name, base = names[0], layer.base_layer
    plain = type(base) is torch.nn.Linear or hasattr(base, "frozen")
    if not (plain or type(base).__name__ == "Linear4bit") or layer.lora_bias[name]:
        return False
    if getattr(layer, "fan_in_fan_out", False) or base.weight.requires_grad:
        return False
    if base.bias is not None and base.bias.requires_grad:
        return False
    variant = layer.lora_variant.get(name)
    if variant is None:
        return True
    dropped = layer.training and getattr(layer.lora_dropout[name], "p", 0.0) > 0
    return type(variant).__name__ == "DoraLinearVariant" and not dropped


def lora_layers(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, Any]]:
    """Parent, name and layer of each linear layer with LoRA adapters of PEFT."""
    from peft.tuners.lora import Linear, LoraLayer

    for parent in model.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, LoraLayer) and (isinstance(layer, Linear) or type(layer).__name__ == "Linear4bit"):
                yield parent, name, layer


def make_fast(model: torch.nn.Module) -> int:
    """Replace the `forward` of the model's LoRA layers; parameters, names and files stay as they are.

    Returns:
        How many layers there are; 0 for a model without such adapters.
    """
    found: dict[int, dict[str, Any]] = {}
    for parent, name, layer in lora_layers(model):
        found.setdefault(id(parent), {})[name] = layer
    count = 0
    for children in found.values():
        left = dict(children)
        for names in SIBLINGS:
            if all(name in left for name in names):
                _replace([left.pop(name) for name in names])
        for layer in left.values():
            _replace([layer])
        count += len(children)
    return count


def _replace(layers: list[Any]) -> None:
    group = _Group(layers)
    for number, layer in enumerate(layers):
        layer.forward = _forward_of(group, number, layer)


def _forward_of(group: _Group, number: int, layer: Any) -> Any:
    plain = type(layer).forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or not covered(layer):
            return plain(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
        return group(number, x)

    return forward


def make_plain(model: torch.nn.Module) -> None:
    """PEFT's own `forward` again."""
    for _, _, layer in lora_layers(model):
        layer.__dict__.pop("forward", None)
