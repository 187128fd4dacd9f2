"""Attention for packed rows: several documents in one sequence, none seeing another.

transformers builds a [T, T] mask for such a sequence, at a cost of T squared over the whole pack. Here each document
gets its own causal attention, at the cost of the sum of the squared lengths and without a mask: on a CPU 5 to 11
times faster at 1,000 to 4,000 tokens. Registered with transformers as `luthier_packed`; the boundaries travel as the
keyword `documents`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface

from luthier.errors import DataError
from luthier.models.blockwise import blockwise, takes
from luthier.models.fastest import speeds

varlen_attn: Any = None
with suppress(ImportError):  # torch before 2.10
    from torch.nn.attention import varlen

    varlen_attn = varlen.varlen_attn


def takes_keyword(function: Any, name: str) -> bool:
    """Whether a function has an argument of this name: torch's kernel for many documents gained some over time."""
    return function is not None and name in signature(function).parameters


NAME = "luthier_packed"
LARGEST_HEAD = 256
"""Values of one head that the kernel for many documents takes."""


class Documents:
    """Where the documents of one sequence lie.

    `bounds` 0 = b0 < b1 < ... < tokens: document i is [b_i, b_i+1). `beginnings`: document i also sees the places
    [start, end) that another begins with, as if they stood right before its own. A class of its own, so that blocks
    compiled by torch.compile pass it on as it is: of a list they would remember the length.
    """

    __slots__ = ("beginnings", "bounds", "edges")

    def __init__(self, bounds: list[int], beginnings: Mapping[int, tuple[int, int]] | None = None) -> None:
        self.bounds, self.beginnings = bounds, beginnings or {}
        self.edges: Edges | None = None


class Edges(NamedTuple):
    """The same for a kernel that takes many documents at once: made with the first layer and kept for the others."""

    queries: torch.Tensor
    keys: torch.Tensor
    most_queries: int
    most_keys: int
    order: torch.Tensor | None
    """Places of the keys, beginnings repeated; None where they are as they lie."""


def edges(laid: Documents, place: torch.device) -> Edges:
    """Where documents begin among the queries and among the keys they see, int32 [documents + 1] each."""
    sizes = [end - start for start, end in pairwise(laid.bounds)]
    before = [laid.beginnings.get(i, (0, 0)) for i in range(len(sizes))]
    seen = [size + end - start for size, (start, end) in zip(sizes, before, strict=True)]
    order = None
    if laid.beginnings:
        spans = [
            span
            for i, own in enumerate(pairwise(laid.bounds))
            for span in ([laid.beginnings[i], own] if i in laid.beginnings else [own])
        ]
        order = torch.cat([torch.arange(start, end) for start, end in spans]).to(place, non_blocking=True)
    queries, keys = (
        torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(place, non_blocking=True)
        for lengths in (sizes, seen)
    )
    return Edges(queries, keys, max(sizes), max(seen), order)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the boundaries say everything
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    documents: Documents | None = None,
    prefix: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    own: bool = True,
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
        softcap: bound of the scores, by a tanh (Gemma 2); the fused kernels have none, so plain matrices are used.
        s_aux: [heads], the score of a place that holds nothing, the attention sink (gpt-oss); likewise.
        documents: of the one line; None: padding on the right is harmless under causal attention, so lines need no mask
            either.
        prefix: for each layer keys and values [key heads, V, size] that every document sees before its own.
        own: whether documents for which `blockwise.py` is faster go that way, not through torch's kernel.

    Returns:
        [lines, tokens, heads, size], and None for the weights.
    """
    if documents is not None and prefix is None and softcap is None and s_aux is None and not dropout:
        at_once = _at_once(query, key, value, documents, scaling, sliding_window)
        if at_once is not None:
            return at_once, None
    parts = []
    before = [] if prefix is None else [t.to(key.dtype).expand(len(key), *t.shape) for t in prefix[_layer(module)]]
    probability = dropout if module.training else 0.0
    laid = documents or Documents([0, query.shape[2]])
    sizes = [end - start for start, end in pairwise(laid.bounds)]
    # Splitting, not slicing: the gradients of the parts are laid end to end, not each added to a whole of zeros.
    split = [torch.split(t, sizes, 2) for t in (query, key, value)]
    for number, (q, k, v) in enumerate(zip(*split, strict=True)):
        keys, values = [[t] for t in before] if before else ([], [])
        if number in laid.beginnings:
            start, end = laid.beginnings[number]
            other = laid.bounds.index(start)
            keys.append(split[1][other][:, :, : end - start])
            values.append(split[2][other][:, :, : end - start])
        if keys:
            k, v = torch.cat([*keys, k], dim=2), torch.cat([*values, v], dim=2)
        seen = _window(q.shape[2], sliding_window, query.device, k.shape[2] - q.shape[2])
        if own and seen is None and softcap is None and s_aux is None and not probability and takes(q):
            parts.append(blockwise(q, k, v, scaling))
            continue
        if softcap is not None or s_aux is not None:
            parts.append(_plain(q, k, v, seen, probability, scaling, softcap, s_aux))
            continue
        parts.append(_fused(q, k, v, seen, probability, scaling))
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1), None


def has_varlen(query: torch.Tensor) -> bool:
    """Whether torch's kernel for many documents at once takes these queries: on Ampere and later, in half precision."""
    size = query.shape[-1]
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or size > LARGEST_HEAD or size % 8:
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0) and takes_keyword(varlen_attn, "window_size")


def _at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    laid: Documents,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor | None:
    """All documents in one call, [1, tokens, heads, size]; None where the kernel is not there."""
    if not has_varlen(query):
        return None
    if laid.edges is None:
        laid.edges = edges(laid, query.device)
    e = laid.edges
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    if e.order is not None:
        k, v = k.index_select(0, e.order), v.index_select(0, e.order)
    grouped = {}
    if (groups := query.shape[1] // key.shape[1]) > 1:
        if takes_keyword(varlen_attn, "enable_gqa"):
            grouped["enable_gqa"] = True
        else:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    found = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        e.queries,
        e.keys,
        e.most_queries,
        e.most_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    return found[None]  # type: ignore[no-any-return]


def _kernel(query: torch.Tensor) -> Any:
    """On a GPU the attention kernel that was fastest there, before all others; on a CPU there is one."""
    best = _fastest_kernel() if query.is_cuda else None
    if best is None:
        return nullcontext()
    order = [getattr(SDPBackend, best), SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(list(dict.fromkeys(order)), set_priority=True)


@cache
def _fastest_kernel() -> str | None:
    return speeds().attention


def _layer(module: Any) -> int:
    return int(module.layer_idx)


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Torch's kernel."""
    grouped = query.shape[1] != key.shape[1]
    with _kernel(query):
        return F.scaled_dot_product_attention(
            query, key, value, seen, dropout, is_causal=seen is None, scale=scaling, enable_gqa=grouped
        )


def _window(length: int, window: int | None, device: torch.device, before: int = 0) -> torch.Tensor | None:
    """[length, before + length] which tokens each one sees; None when that is plain causal attention."""
    if not before and (window is None or length <= window):
        return None
    place = torch.arange(before + length, device=device)
    distance = place[before:, None] - place[None, :]
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention in plain matrices, for what the fused kernels cannot do."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    length = query.shape[2]
    if seen is None:
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~seen, -torch.inf).float()
    if sinks is not None:
        nothing = sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, nothing], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[2]].to(value.dtype)
    return F.dropout(weights, dropout) @ value


def _no_mask(*_: Any, **__: Any) -> None:
    return None


# Where documents end differs from batch to batch: compiled blocks call it, and do not look inside.
AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))  # type: ignore[no-untyped-call]
AttentionMaskInterface.register(NAME, _no_mask)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Use another attention implementation for a while; `model` is a causal language model of transformers.

    Raises:
        DataError: the model's attention cannot be replaced.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name or model.base_model is model:
        raise DataError(
            f"{type(model).__name__} is of a kind whose attention cannot be replaced, so it cannot be trained here",
            where=model.name_or_path or None,
            fix="choose another model: Llama, Qwen, Mistral, Gemma and their relatives work",
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)
