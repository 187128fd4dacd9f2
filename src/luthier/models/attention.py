"""Attention for packed rows: several documents in one sequence, none seeing another.

transformers builds a [T, T] mask for such a sequence, at a cost of T squared over the whole pack. Here each document
gets its own causal attention, at the cost of the sum of the squared lengths and without a mask: on a CPU 5 to 11
times faster at 1,000 to 4,000 tokens. Registered with transformers as `luthier_packed`; the boundaries travel as the
keyword `documents`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "luthier_packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the boundaries say everything
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    documents: list[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document; within each line of the batch when there are no boundaries.

    Args:
        module: the attention layer, for its training mode.
        query: [lines, heads, tokens, size]; one line when there are boundaries.
        key: [lines, key heads, tokens, size]; fewer heads than `query` mean grouped queries.
        value: like `key`.
        attention_mask: not used.
        dropout: probability on the attention weights, in training only.
        scaling: factor on the scores; 1 / sqrt(size) when None.
        sliding_window: how many tokens back a token may look, itself included.
        documents: boundaries 0 = b0 < b1 < ... < tokens; document i is [b_i, b_i+1). None: padding on the right is
            harmless under causal attention, so lines need no mask either.

    Returns:
        [lines, tokens, heads, size], and None for the weights.
    """
    parts = []
    bounds = documents or [0, query.shape[2]]
    for start, end in pairwise(bounds):
        length = end - start
        mask = None
        if sliding_window is not None and length > sliding_window:
            back = torch.arange(length, device=query.device)
            distance = back[:, None] - back[None, :]
            mask = (distance >= 0) & (distance < sliding_window)
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=mask,
                dropout_p=dropout if module.training else 0.0,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Use another attention implementation for a while; `model` is a causal language model of transformers."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
