"""Blocks compiled by torch.compile: one graph for all blocks of a model, whatever the length of a batch.

What is compiled is a block's own forward, without the attention of packed rows, which depends on where documents end.
The sizes of a batch are symbols, so a batch of another length needs no new graph. Passes without gradient go through
the plain block: they would need a graph of their own and cost little. A block that computes everything again in the
backward pass runs its compiled code twice; one that chooses operation by operation what to compute again stays plain,
since compiled code is one operation.
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from luthier.models.bottleneck import blocks
from luthier.models.fastest import compiler
from luthier.models.tuning import causal_model

GRAPHS = 64
"""Graphs of one block that may be made before torch gives up; a run needs two or three."""
WRAPPED = "__call__" not in vars(GradientCheckpointingLayer)
"""Whether computing again is a part of a block's forward (transformers 5.24 and later), not of the call around it. It
cannot be compiled, so it is done around the compiled code."""


def why_not(model: Any, plain: range) -> str | None:
    """A sentence where blocks cannot be compiled, None where they can; see `compile_blocks`."""
    if next(model.parameters()).device.type == "cpu" and compiler() is None:
        return "there is no C++ compiler, which compiling on a CPU needs (apt install g++)"
    if len(plain) == len(blocks(causal_model(model))):
        return "every block computes its cheap parts again, operation by operation, which compiled code does not do"
    return None


def compile_blocks(model: Any, plain: range = range(0)) -> Callable[[], None]:
    """Compile the blocks of a causal language model, tuned or not; nothing is compiled before the first pass.

    Args:
        model: whose blocks.
        plain: numbers of the blocks that stay as they are: those that compute cheap parts again (`recompute.py`).

    Returns:
        What puts the plain blocks back.
    """
    causal = causal_model(model)
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    found = [block for number, block in enumerate(blocks(causal)) if number not in plain]
    for block in found:
        block.forward = _where_learned(block)
    # Else the first block's input needs no gradient where all others' do, and it would get a graph of its own.
    hook = causal.get_input_embeddings().register_forward_hook(_needs_gradient)

    def undo() -> None:
        hook.remove()
        for block in found:
            block.__dict__.pop("forward", None)

    return undo


def compile_seconds() -> float:
    """Seconds that this process has spent on making graphs and their code, forward and backward."""
    from torch._dynamo.utils import calculate_time_spent

    spent: float = calculate_time_spent().get("total_wall_time", 0.0)
    return spent


def _where_learned(block: Any) -> Any:
    """A block's forward: compiled where a gradient is wanted, and run once more going back where the block says so."""
    plain, bare = block.forward, block.forward
    if WRAPPED and isinstance(block, GradientCheckpointingLayer):
        bare = MethodType(type(block).forward.__wrapped__, block)
    compiled: Callable[..., Any] = torch.compile(bare, dynamic=True)

    def forward(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*given, **named)
        if bare is not plain and block.gradient_checkpointing and block.training:
            return block._gradient_checkpointing_func(partial(compiled, **named), *given)
        return compiled(*given, **named)

    return forward


def _needs_gradient(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled() and not embedded.requires_grad:
        embedded.requires_grad_()
    return embedded
