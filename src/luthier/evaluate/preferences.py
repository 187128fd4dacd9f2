"""Which of two answers a model prefers, on pairs: by their probability, or by a reward model's scores.

| metric | what | source |
| --- | --- | --- |
| preference | share of pairs whose chosen answer is ahead, ties half | |
| preference_by_length | the same for the rule "the longer one" or "the shorter one", as training pairs have it | |
| preference_calibration | expected calibration error of sigmoid(gap of scores), ten equal bins | Naeini et al. 2015 |

A reward model that is no better than the rule of length has learned length, as most do first (Singhal et al. 2023,
arXiv:2310.03716).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from luthier.evaluate.answers import BY_LENGTH, CALIBRATION, PREFERENCE
from luthier.evaluate.metrics import share
from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.logprobs import batch_logprobs, batch_scores, row_sums
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.text.render import TrainingRow
from luthier.text.tokenizer import Tokenizer
from luthier.types import Answer, Message, Metric

BUDGET = 4096


BINS = 10


@torch.no_grad()
def gaps(model: Any, rows: TokenRows, *, packed: bool) -> list[float]:
    """For each pair how far the chosen answer is ahead: the difference of log-probabilities, or of scores.

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
    ahead: list[float] = (found[0::2] - found[1::2]).tolist()
    return ahead


def preferences(ahead: Sequence[float], rows: TokenRows, tokenizer: Tokenizer) -> list[Answer]:
    """Gaps as answers: expected is the chosen answer, given the one that is ahead; 1/2 is the score of a tie."""
    found = []
    for k, score in enumerate(_wins(ahead)):
        chosen, rejected = rows.row(2 * k), rows.row(2 * k + 1)
        prompt, right = _texts(chosen, tokenizer)
        given = right if score == 1 else _texts(rejected, tokenizer)[1]
        found.append(Answer(f"{PREFERENCE}-{k}", (Message("user", prompt),), right, given, score, stopped=True))
    return found


def pair_metrics(ahead: Sequence[float], rows: TokenRows, trained: TokenRows | None, *, scores: bool) -> list[Metric]:
    """What pairs say of a model.

    Args:
        ahead: the gap of each pair.
        rows: the pairs, interleaved.
        trained: pairs of the training, which decide whether longer or shorter answers were chosen.
        scores: whether the gaps are differences of a reward model's scores, which are log-odds.
    """
    found = [share(PREFERENCE, _wins(ahead))]
    longer = _wins(_lengths(trained if trained is not None else rows))
    sign = 1 if sum(longer) >= len(longer) / 2 else -1
    found.append(share(BY_LENGTH, _wins([sign * gap for gap in _lengths(rows)])))
    if scores:
        found.append(calibration_error(ahead))
    return found


def _wins(ahead: Sequence[float]) -> list[float]:
    return [(float(gap > 0) - float(gap < 0) + 1) / 2 for gap in ahead]


def _lengths(rows: TokenRows) -> list[int]:
    counts = rows.trained_counts
    longer: list[int] = (counts[0::2] - counts[1::2]).tolist()
    return longer


def calibration_error(ahead: Sequence[float]) -> Metric:
    """How far the probability of being preferred, the larger of both, is from how often it is right; in 0 to 1/2.

    The interval is the bootstrap's, over pairs.
    """
    sure = 1 / (1 + np.exp(-np.abs(np.array(ahead))))
    right = np.array(_wins(ahead))
    place = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)

    def error(chosen: Any) -> float:
        bins = place[chosen]
        gap = np.bincount(bins, weights=sure[chosen] - right[chosen], minlength=BINS)
        return float(np.abs(gap).sum() / len(bins))

    draw, everyone = np.random.default_rng(0), np.arange(len(sure))
    drawn = [error(draw.integers(0, len(sure), len(sure))) for _ in range(500)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = error(everyone)
    return Metric(CALIBRATION, value, min(value, float(low)), max(value, float(high)), len(sure), lower_is_better=True)


def _texts(row: TrainingRow, tokenizer: Tokenizer) -> tuple[str, str]:
    """What stands before the trained tokens, and they."""
    start = row.trained.index(True)
    answer = [i for i, trained in zip(row.ids, row.trained, strict=True) if trained]
    return tokenizer.decode(row.ids[:start]), tokenizer.decode(answer)
