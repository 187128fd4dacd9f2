"""Which of two answers a model prefers, on pairs: by their probability, or by a reward model's scores."""

from typing import Any

import torch

from luthier.evaluate.answers import PREFERENCE
from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.logprobs import batch_logprobs, batch_scores, row_sums
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.text.render import TrainingRow
from luthier.text.tokenizer import Tokenizer
from luthier.types import Answer, Message

BUDGET = 4096


@torch.no_grad()
def preferred(model: Any, rows: TokenRows, *, packed: bool) -> list[float]:
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


def preferences(model: Any, rows: TokenRows, tokenizer: Tokenizer, *, packed: bool) -> list[Answer]:
    """The same as answers: expected is the chosen answer, given the one that the model prefers."""
    found = []
    for k, score in enumerate(preferred(model, rows, packed=packed)):
        chosen, rejected = rows.row(2 * k), rows.row(2 * k + 1)
        prompt, right = _texts(chosen, tokenizer)
        given = right if score == 1 else _texts(rejected, tokenizer)[1]
        found.append(Answer(f"{PREFERENCE}-{k}", (Message("user", prompt),), right, given, score, stopped=True))
    return found


def _texts(row: TrainingRow, tokenizer: Tokenizer) -> tuple[str, str]:
    """What stands before the trained tokens, and they."""
    start = row.trained.index(True)
    answer = [i for i, trained in zip(row.ids, row.trained, strict=True) if trained]
    return tokenizer.decode(row.ids[:start]), tokenizer.decode(answer)
