"""Log-likelihoods of rows and of choices, through the training forward; nothing is merged, no logits are held whole.

The choices of an item are branches of one row: the prompt is read once, and each choice sees the prompt and itself.
Items whose prompts begin alike lie in one tree, and a beginning that all items share, few-shot examples for instance,
is read once for all. Where attention is of a kind that a mask cannot say everything about, each choice is a row of its
own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.evaluate.trees import Branches, Tree, grow
from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.beginning import attends_freely, common_beginning, copies, read_beginning
from luthier.models.logprobs import CHUNK_LOGITS, batch_logprobs, logits_of
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.text.render import TrainingRow
from luthier.text.rows import gather

BUDGETS = {"cpu": 768, "cuda": 16384}
"""Tokens of one forward pass: on a CPU what stays in its cache, on a GPU what keeps it busy."""


@torch.no_grad()
def row_losses(
    model: Any, rows: TokenRows, *, packed: bool, budget: int | None = None
) -> tuple[list[float], list[int]]:
    """Summed negative log-likelihood (nats) and number of trained tokens of each row."""
    model.eval()
    place = next(model.parameters()).device
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with attention(causal_model(model), NAME):
        for numbers in best_fit(rows.lengths.tolist(), budget or BUDGETS.get(place.type, 4096)):
            batch = lay_out(rows, numbers, packed=packed).to(place)
            each = torch.zeros(len(numbers), dtype=torch.float64, device=place)
            each.index_add_(0, batch.rows, -batch_logprobs(model, batch).double())
            labels = torch.bincount(batch.rows, minlength=len(numbers)).tolist()
            for number, loss, n in zip(numbers, each.tolist(), labels, strict=True):
                sums[number], counts[number] = loss, n
    return sums, counts


@torch.no_grad()
def branch_logprobs(
    model: Any, items: Sequence[Branches], *, packed: bool = True, budget: int | None = None
) -> list[list[float]]:
    """Summed log-probability (nats) of each choice of each item."""
    model.eval()
    causal = causal_model(model)
    if not attends_freely(model) or not getattr(causal, "_supports_sdpa", False):
        return _row_by_row(model, items, packed=packed, budget=budget)
    shared = common_beginning([item.start for item in items])
    found: list[list[float]] = [[] for _ in items]
    trees = grow(items, shared, _weight(causal))
    with attention(causal, "sdpa"):
        beginning = read_beginning(model, items[0].start[:shared]) if shared else None
        for group in _groups(trees, shared, budget or BUDGETS.get(model.device.type, 4096)):
            sums = iter(_read(model, items, group, shared, beginning))
            for number in (number for tree in group for number in tree.items):
                found[number] = [next(sums) for _ in items[number].ends]
    return found


def _weight(causal: Any) -> float:
    """What the matrices of a layer cost a token, in pairs of attention: (8 h^2 + 6 h i) / 4 h for width h, inner i."""
    config = causal.config.get_text_config()
    width = config.hidden_size
    return float(2 * width + 1.5 * (getattr(config, "intermediate_size", None) or 4 * width))


def _row_by_row(model: Any, items: Sequence[Branches], *, packed: bool, budget: int | None) -> list[list[float]]:
    rows = [
        TrainingRow(item.start + end, [False] * len(item.start) + [True] * len(end))
        for item in items
        for end in item.ends
    ]
    sums = iter(row_losses(model, gather(rows), packed=packed, budget=budget)[0])
    return [[-next(sums) for _ in item.ends] for item in items]


def _groups(trees: Sequence[Tree], shared: int, budget: int) -> list[list[Tree]]:
    """Trees to read together: of like width, so that little is padding."""
    groups: list[list[Tree]] = []
    for tree in sorted(trees, key=lambda tree: len(tree.ids)):
        width = len(tree.ids) + shared // 4  # what is shared costs memory, but no reading
        if groups and (len(groups[-1]) + 1) * width <= budget:
            groups[-1].append(tree)
        else:
            groups.append([tree])
    return groups


def _read(model: Any, items: Sequence[Branches], trees: Sequence[Tree], shared: int, beginning: Any) -> list[float]:
    """The choices' log-probabilities, tree by tree, from one forward pass over all of them."""
    causal = causal_model(model)
    place = next(model.parameters()).device
    width = max(len(tree.ids) for tree in trees)
    ids = np.zeros((len(trees), width), np.int64)
    positions = np.zeros((len(trees), width), np.int64)
    seen = np.zeros((len(trees), width, shared + width), np.bool_)
    seen[..., :shared] = True
    seen[:, np.arange(width), shared + np.arange(width)] = True  # padding sees itself, or its softmax is of nothing
    sources: list[int] = []
    for line, tree in enumerate(trees):
        n = len(tree.ids)
        ids[line, :n], positions[line, :n] = tree.ids, tree.depths
        tree.fill(seen[line, :n, shared : shared + n])
        sources += [line * width + node for way in tree.sources for node in way]
    ends = [end for tree in trees for number in tree.items for end in items[number].ends]
    barred = torch.from_numpy(~seen)[:, None].to(place)
    mask = torch.zeros(barred.shape, dtype=causal.dtype, device=place).masked_fill_(barred, -torch.inf)
    hidden = causal.base_model(
        input_ids=torch.from_numpy(ids).to(place),
        attention_mask=mask,
        position_ids=torch.from_numpy(positions).to(place),
        past_key_values=copies(beginning, len(trees)),
        use_cache=beginning is not None,
    ).last_hidden_state.flatten(0, 1)
    targets = torch.tensor([token for end in ends for token in end], device=place)
    each = _target_logprobs(causal, hidden, torch.tensor(sources, device=place), targets)
    of_choice = torch.repeat_interleave(torch.tensor([len(end) for end in ends], device=place))
    found = torch.zeros(len(ends), dtype=torch.float64, device=place).index_add_(0, of_choice, each.double())
    return [float(value) for value in found.tolist()]


def _target_logprobs(causal: Any, hidden: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [labels] of targets; a state that predicts several tokens meets the output head once."""
    places, owners = torch.unique(sources, return_inverse=True)
    found = torch.empty(len(targets), device=hidden.device)
    rows = max(1, CHUNK_LOGITS // causal.config.get_text_config().vocab_size)
    for first in range(0, len(places), rows):
        logits = logits_of(causal, hidden.index_select(0, places[first : first + rows])).float()
        mine = torch.nonzero((owners >= first) & (owners < first + rows))[:, 0]
        picked = logits[owners[mine] - first, targets[mine]]
        found[mine] = picked - torch.logsumexp(logits, dim=-1)[owners[mine] - first]
    return found
