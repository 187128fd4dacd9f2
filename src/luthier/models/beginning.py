"""A beginning that several prompts have in common: read once, its keys and values copied for each."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from luthier.models.prompts import learns_prompt
from luthier.models.tuning import causal_model

WORTH_SHARING = 16
"""A common beginning shorter than this is read with each row."""


def common_beginning(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with, one less than the shortest has; 0 when too few to be worth it."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    same = min(same, most)
    return same if same >= WORTH_SHARING else 0


def attends_freely(model: Any) -> bool:
    """Whether a mask and positions say all about who sees whom.

    Not so where attention counts places back, as a sliding window does, where layers carry a state, or where each row
    begins with virtual tokens that were learned.
    """
    if learns_prompt(model):
        return False
    config = causal_model(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(config, "sliding_window", None)


def read_beginning(model: Any, ids: Sequence[int]) -> Any:
    """The cache after reading the beginning once."""
    place = next(model.parameters()).device
    read = causal_model(model)(input_ids=torch.tensor([list(ids)], device=place), use_cache=True, logits_to_keep=1)
    return read.past_key_values


def copies(cache: Any, count: int) -> Any:
    """The cache of one row, for a whole batch; the original stays for the next batch."""
    if cache is None:
        return None
    copy = deepcopy(cache)
    copy.batch_repeat_interleave(count)
    return copy
