"""Causal attention of one short document on a CPU, in blocks of queries, its weights kept for the backward pass.

torch's flash kernel for CPUs computes the weights again in the backward pass, in small tiles: at documents of some
hundred tokens both passes stay at a third of what a product reaches. Here a block of queries sees all keys up to its
own end in one product over all heads. With P = softmax(s Q K' + causal mask) and O = P V (Vaswani et al. 2017):

    dV = P' dO      dS = P (dO V' - rowsum(P dO V'))      dQ = s dS K      dK = s dS' Q

What that costs is the weights themselves, half a square of the document's length for each head; so it is for documents
of up to `LONGEST` tokens. The forward pass is one operation of torch's dispatcher, which checkpoints can keep.
"""

from collections.abc import Iterator
from typing import Any

import torch

BLOCK = 64
SHORTEST, LONGEST = 160, 512
"""Tokens of documents that this is faster for; beyond, the weights would take too much memory."""


def weights(tokens: int) -> int:
    """Attention weights of one head that are kept for a document of so many tokens."""
    return sum((end - start) * end for start, end, _ in _blocks(tokens, 1))


def _blocks(tokens: int, heads: int) -> Iterator[tuple[int, int, slice]]:
    """Start and end of each block, and where its weights lie among all."""
    place = 0
    for start in range(0, tokens, BLOCK):
        end = min(start + BLOCK, tokens)
        size = heads * (end - start) * end
        yield start, end, slice(place, place + size)
        place += size


@torch.library.custom_op("luthier::blockwise_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    heads, tokens, size = key.shape
    groups = query.shape[0] // heads
    q = query.reshape(heads, groups, tokens, size)
    out = query.new_empty(tokens, heads, groups, size)
    kept = query.new_empty(heads * groups * weights(tokens))
    mask = torch.full((BLOCK, BLOCK), -torch.inf).triu_(1)
    for start, end, place in _blocks(tokens, heads * groups):
        rows = end - start
        odds = kept[place].view(heads, groups * rows, end)
        torch.bmm((q[:, :, start:end] * scale).reshape(heads, -1, size), key[:, :end].transpose(1, 2), out=odds)
        odds.view(heads, groups, rows, end)[..., start:] += mask[:rows, :rows]
        torch._softmax(odds, -1, False, out=odds)
        found = torch.bmm(odds, value[:, :end]).view(heads, groups, rows, size)
        out[start:end] = found.permute(2, 0, 1, 3)
    return out.view(tokens, heads * groups, size), kept


@_forward.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,  # noqa: ARG001 - as the operation itself
    value: torch.Tensor,  # noqa: ARG001
    scale: float,  # noqa: ARG001
) -> tuple[torch.Tensor, torch.Tensor]:
    heads, tokens, size = query.shape
    return query.new_empty(tokens, heads, size), query.new_empty(heads * weights(tokens))


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        out: torch.Tensor
        out, kept = _forward(query, key, value, scale)
        ctx.save_for_backward(query, key, value, kept)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        query, key, value, kept = ctx.saved_tensors
        heads, tokens, size = key.shape
        groups = query.shape[0] // heads
        q = query.reshape(heads, groups, tokens, size)
        given = gradient.view(tokens, heads, groups, size)
        dq = query.new_empty(tokens, heads, groups, size)
        dk, dv = (query.new_zeros(heads, tokens, size) for _ in range(2))
        for start, end, place in _blocks(tokens, heads * groups):
            rows = end - start
            odds = kept[place].view(heads, groups * rows, end)
            dy = given[start:end].permute(1, 2, 0, 3).reshape(heads, groups * rows, size)
            dv[:, :end].baddbmm_(odds.transpose(1, 2), dy)
            slopes = torch.bmm(dy, value[:, :end].transpose(1, 2))
            slopes = torch._softmax_backward_data(slopes, odds, -1, slopes.dtype)
            found = torch.bmm(slopes, key[:, :end]).mul_(ctx.scale).view(heads, groups, rows, size)
            dq[start:end] = found.permute(2, 0, 1, 3)
            scaled = (q[:, :, start:end] * ctx.scale).reshape(heads, groups * rows, size)
            dk[:, :end].baddbmm_(slopes.transpose(1, 2), scaled)
        return dq.view(tokens, heads * groups, size).transpose(0, 1), dk, dv, None


def takes(query: torch.Tensor) -> bool:
    """Whether to compute these [1, heads, tokens, size] so: in training on a CPU, in float32, where it is faster."""
    plain = query.device.type == "cpu" and query.dtype == torch.float32 and len(query) == 1
    return SHORTEST <= query.shape[2] <= LONGEST and plain and torch.is_grad_enabled() and query.requires_grad


def blockwise(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Causal attention within one document.

    Args:
        query: [1, heads, tokens, size].
        key: [1, key heads, tokens, size].
        value: like `key`.
        scale: factor on the scores; 1 / sqrt(size) when None.

    Returns:
        [1, heads, tokens, size]; in memory [tokens, heads, size].
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    found: torch.Tensor = _Blockwise.apply(query[0], key[0], value[0], factor)  # type: ignore[no-untyped-call]
    return found.transpose(0, 1)[None]
