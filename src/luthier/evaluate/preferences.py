"""Which of two answers a model prefers, on pairs: by their probability, or by a reward model's scores."""

from typing import Any

import torch

from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.logprobs import batch_logprobs, batch_scores, row_sums
from luthier.models.tuning import causal_model
from luthier.text import TokenRows

BUDGET = 4096


@torch.no_grad()
def preferences(model: Any, rows: TokenRows, *, packed: bool) -> list[float]:
    """For each pair 1 when the chosen answer is the likelier one (or has the higher score), 1/2 at a tie, else 0.

    An answer's probability is that of all its tokens together. `rows` are interleaved: chosen, rejected, chosen, ...
    """
    model.eval()
    place = next(model.parameters()).device
    scores = hasattr(causal_model(model), "score")
    found = torch.zeros(len(rows), dtype=torch.float64)
    with attention(causal_model(model), NAME):
        for numbers in best_fit(rows.lengths.tolist(), BUDGET):
            batch = lay_out(rows, numbers, packed=packed).to(place)
            values = batch_scores(model, batch) if scores else row_sums(batch_logprobs(model, batch), batch)
            found[batch.numbers.cpu()] = values.double().cpu()
    gap = found[0::2] - found[1::2]
    ahead: list[float] = ((gap.sign() + 1) / 2).tolist()
    return ahead
