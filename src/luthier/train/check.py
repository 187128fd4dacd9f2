"""The check before a run, on the user's own model and rows: the fast path computes what the model itself would."""

from typing import Any

import torch

from luthier.errors import TrainingStopped
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.logprobs import batch_logprobs, plain_logprobs
from luthier.models.tuning import causal_model
from luthier.text import TokenRows

ROWS = 3
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest difference of one log-probability in nats; rounding stays far below."""


@torch.no_grad()
def check_head(model: Any, rows: TokenRows, *, packed: bool, compute: torch.dtype) -> float:
    """Compare the loss head (and packing) with the model's own logits on the shortest rows.

    Returns:
        The largest difference of a log-probability, in nats.

    Raises:
        TrainingStopped: they differ by more than rounding can explain.
    """
    model.eval()
    place = next(model.parameters()).device
    shortest = sorted(range(len(rows)), key=lambda i: int(rows.lengths[i]))[:ROWS]
    batch = lay_out(rows, shortest, packed=packed).to(place)
    with attention(causal_model(model), NAME):
        ours = batch_logprobs(model, batch)
    plain = []
    for i in shortest:
        alone = lay_out(rows, [i], packed=False).to(place)
        plain.append(plain_logprobs(model, alone.ids, alone.sources, alone.targets))
    difference = (ours - torch.cat(plain)).abs().max().item()
    if not difference <= BOUNDS[compute]:
        raise TrainingStopped(
            f"{'packed rows do' if packed else 'the loss head does'} not give the model's own log-probabilities: they "
            f"differ by up to {difference:.3g} nats",
            where="check before training",
            fix="set training.packing=false"
            if packed
            else "this model needs a change in luthier/models/logprobs.py; report it",
        )
    return difference
