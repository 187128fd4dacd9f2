"""Activations that are not kept but computed again in the backward pass, block by block.

| of a block | kept | work |
| --- | --- | --- |
| nothing again | what every operation needs | none |
| cheap parts again | its input, results of wide products and of attention | norms, rotary, activation: a few % |
| everything again | its input | the forward pass once more, about a third |

Chen et al. 2016, arXiv:1604.06174; choosing by operation: Korthikanti et al. 2022, arXiv:2205.05198, section 5.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import peft
import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from luthier.models import blockwise  # noqa: F401 - makes the operation known
from luthier.models.bottleneck import blocks
from luthier.models.roles import speaking_as
from luthier.models.tuning import causal_model

NARROW = 256
"""A product over fewer numbers than this costs little beside what its result takes: the low-rank part of an adapter."""
_aten = torch.ops.aten
PRODUCTS = {_aten.mm.default: 0, _aten.addmm.default: 1, _aten.bmm.default: 0, _aten._int_mm.default: 0}
"""Product -> which of its arguments is multiplied from the left."""
ATTENTION = {
    getattr(_aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if hasattr(_aten, name)
} | {torch.ops.luthier.blockwise_attention.default}


def _policy(_: Any, operation: Any, *given: Any, **__: Any) -> CheckpointPolicy:
    """Keep what is dear: attention and wide products."""
    if operation in ATTENTION:
        return CheckpointPolicy.MUST_SAVE
    left = PRODUCTS.get(operation)
    if left is not None and given[left].shape[-1] >= NARROW:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _enable(model: Any, settings: dict[str, Any]) -> None:
    # transformers 5.24 has it under a new name, and takes the old one away in 6
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)(settings)


def recompute(model: Any, whole: int | None = None, cheap: int = 0) -> None:
    """Drop activations in the forward pass of a model and of its critic, and compute them again in the backward pass.

    With several adapters a block has to speak then as it did the first time, whoever speaks meanwhile; their blocks
    compute everything again.

    Args:
        model: tuned or not.
        whole: how many blocks, from the first on, compute everything again; all when None.
        cheap: how many after them compute their cheap parts again.
    """
    settings: dict[str, Any] = {"use_reentrant": False}
    several = isinstance(model, peft.PeftModel) and len(model.peft_config) > 1
    if several:

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), speaking_as(model, model.active_adapter)

        settings["context_fn"] = contexts
    _enable(causal_model(model), settings)
    own = getattr(getattr(model, "critic", None), "own", None)
    if own is not None:
        _enable(own, {"use_reentrant": False})
    if whole is None:
        return
    some = partial(checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _policy))
    block: Any
    for number, block in enumerate(blocks(causal_model(model))):
        block.gradient_checkpointing = number < whole + cheap
        if whole <= number and not several:
            block._gradient_checkpointing_func = some
