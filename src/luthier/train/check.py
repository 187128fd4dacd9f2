"""The check before a run, on the user's own model and rows: the fast path computes what the model itself would."""

from typing import Any

import torch

from luthier.errors import TrainingStopped
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.logprobs import batch_logprobs, batch_scores, plain_logprobs, plain_scores
from luthier.models.rounded import rounds_inputs
from luthier.models.tuning import causal_model
from luthier.text import TokenRows

ROWS = 3
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest difference of one log-probability in nats; rounding stays far below."""
ROUNDED = 0.5
"""The same where activations are rounded to 8 bits: what is rounded how depends on all rows of a batch."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Where configs say how far back some layers look."""


@torch.no_grad()
def check_head(model: Any, rows: TokenRows, *, packed: bool, compute: torch.dtype) -> float:
    """Compare the loss head (and packing) with the model's own logits on the shortest rows.

    Where the model has layers that look back over a window only, one of the rows is longer than that.

    Returns:
        The largest difference of a log-probability, in nats.

    Raises:
        TrainingStopped: they differ by more than rounding can explain.
    """
    model.eval()
    place = next(model.parameters()).device
    chosen = _choose(rows.lengths.tolist(), causal_model(model).config.get_text_config())
    batch = lay_out(rows, chosen, packed=packed).to(place)
    with attention(causal_model(model), NAME):
        ours = batch_logprobs(model, batch)
    plain = []
    for i in chosen:
        alone = lay_out(rows, [i], packed=False).to(place)
        plain.append(plain_logprobs(model, alone.ids, alone.sources, alone.targets))
    difference = (ours - torch.cat(plain)).abs().max().item()
    if not difference <= (ROUNDED if _rounds(model) else BOUNDS[compute]):
        raise TrainingStopped(
            f"{'packed rows do' if packed else 'the loss head does'} not give the model's own log-probabilities: they "
            f"differ by up to {difference:.3g} nats",
            where="check before training",
            fix="set training.packing=false"
            if packed
            else "this model needs a change in luthier/models/logprobs.py; report it",
        )
    return difference


@torch.no_grad()
def check_shared(model: Any, rows: TokenRows, *, scores: bool, compute: torch.dtype) -> float:
    """Compare pairs whose common beginning is computed once with pairs laid one after the other.

    Returns:
        The largest difference of a log-probability, or of a score.

    Raises:
        TrainingStopped: they differ by more than rounding can explain.
    """
    model.eval()
    place = next(model.parameters()).device
    lengths = [int(sum(rows.lengths[i : i + 2])) for i in range(0, len(rows), 2)]
    chosen = [
        row
        for pair in _choose(lengths, causal_model(model).config.get_text_config())
        for row in (2 * pair, 2 * pair + 1)
    ]
    found = []
    with attention(causal_model(model), NAME):
        for shared in (False, True):
            batch = lay_out(rows, chosen, packed=True, shared=shared).to(place)
            found.append(batch_scores(model, batch) if scores else batch_logprobs(model, batch))
    difference = (found[0] - found[1]).abs().max().item()
    if not difference <= (ROUNDED if _rounds(model) else BOUNDS[compute]):
        raise TrainingStopped(
            f"pairs that share their beginning do not give what they give alone: they differ by up to {difference:.3g}",
            where="check before training",
            fix="choose another base model",
        )
    return difference


def _rounds(model: Any) -> bool:
    """True for a base in 8 bits, whose layers round activations too."""
    return bool(getattr(causal_model(model), "is_loaded_in_8bit", False)) or rounds_inputs(model)


@torch.no_grad()
def check_scores(model: Any, rows: TokenRows, *, packed: bool, compute: torch.dtype) -> float:
    """The same for a reward model: our score of a row is that of transformers' classifier.

    Returns:
        The largest difference of a score.

    Raises:
        TrainingStopped: they differ by more than rounding can explain.
    """
    model.eval()
    place = next(model.parameters()).device
    chosen = _choose(rows.lengths.tolist(), causal_model(model).config.get_text_config())
    with attention(causal_model(model), NAME):
        ours = batch_scores(model, lay_out(rows, chosen, packed=packed).to(place))
    alone = (lay_out(rows, [i], packed=False).ids.to(place) for i in chosen)
    difference = (ours - torch.cat([plain_scores(model, ids) for ids in alone])).abs().max().item()
    if not difference <= (ROUNDED if _rounds(model) else BOUNDS[compute]):
        raise TrainingStopped(
            f"the scores are not those of the model's own classifier: they differ by up to {difference:.3g}",
            where="check before training",
            fix="set training.packing=false" if packed else "choose another base model",
        )
    return difference


def _choose(lengths: list[int], config: Any) -> list[int]:
    """The shortest rows, and after them the shortest one that is longer than a window of the model."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    windows = [getattr(config, name, None) for name in WINDOWS]
    longer = [i for i in order[ROWS:] if any(window and lengths[i] > window for window in windows)]
    return order[:ROWS] + longer[:1]
