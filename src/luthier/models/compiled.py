"""Blocks compiled by torch.compile: one graph for all blocks of a model, whatever the length of a batch.

What is compiled is a block's own forward, without the attention of packed rows, which depends on where documents end.
The sizes of a batch are symbols, so a batch of another length needs no new graph. Passes without gradient go through
the plain block: they would need a graph of their own and cost little.
"""

from collections.abc import Callable
from typing import Any

import torch

from luthier.models.bottleneck import blocks
from luthier.models.fastest import compiler
from luthier.models.tuning import causal_model

GRAPHS = 64
"""Graphs of one block that may be made before torch gives up; a run needs two or three."""


def why_not(model: Any, *, recompute: bool) -> str | None:
    """A sentence where blocks cannot be compiled, None where they can."""
    if next(model.parameters()).device.type == "cpu" and compiler() is None:
        return "there is no C++ compiler, which compiling on a CPU needs (apt install g++)"
    if recompute:
        return "activations are recomputed, which does not go together with compiled blocks here"
    return None


def compile_blocks(model: Any) -> Callable[[], None]:
    """Compile the blocks of a causal language model, tuned or not; nothing is compiled before the first pass.

    Returns:
        What puts the plain blocks back.
    """
    causal = causal_model(model)
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    found = blocks(causal)
    for block in found:
        block.forward = _where_learned(torch.compile(block.forward, dynamic=True), block.forward)
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


def _where_learned(compiled: Any, plain: Any) -> Any:
    def forward(*given: Any, **named: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(*given, **named)

    return forward


def _needs_gradient(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled() and not embedded.requires_grad:
        embedded.requires_grad_()
    return embedded
