"""Control tokens that a base model never learned, though its chat template writes them.

Base models often come with the chat template and the vocabulary of their chat sibling. The rows of the embedding for
tokens that pre-training never met are then zero, far smaller than all others, or copies of one another: what the
template writes says nothing to the model, and an adapter beside frozen embeddings can hardly teach it.
"""

from collections.abc import Iterable
from typing import Any

import torch

SMALL = 0.1
"""A row shorter than this share of the median row was never pushed anywhere."""


@torch.no_grad()
def untrained_tokens(model: Any, ids: Iterable[int]) -> list[int]:
    """Those of the token ids whose embedding looks untrained, in order.

    Args:
        model: a causal language model of transformers.
        ids: control tokens, as they occur in rendered rows.
    """
    weight = model.get_input_embeddings().weight
    rows = sorted(set(ids))
    if not rows or weight.device.type == "meta" or not weight.is_floating_point():
        return []
    own = weight[torch.tensor(rows, device=weight.device)].float()
    usual = weight.float().norm(dim=1).median()
    alike = (torch.cdist(own, own) <= 1e-6 * usual) & ~torch.eye(len(rows), dtype=torch.bool, device=own.device)
    small = own.norm(dim=1) < SMALL * usual
    return [row for row, bad in zip(rows, (small | alike.any(1)).tolist(), strict=True) if bad]
