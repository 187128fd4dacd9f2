"""Log-likelihoods of rows and of choices, through the training forward; nothing is merged, no logits are held whole.

The choices of an item are branches of one row: the prompt is read once, and each choice sees the prompt and itself. A
beginning that all items share, few-shot examples for instance, is read once for all. Where attention is of a kind that
a mask cannot say everything about, each choice is a row of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.beginning import attends_freely, common_beginning, copies, read_beginning
from luthier.models.logprobs import batch_logprobs, token_logprobs
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.text.render import TrainingRow
from luthier.text.rows import gather

BUDGETS = {"cpu": 768, "cuda": 16384}
"""Tokens of one forward pass: on a CPU what stays in its cache, on a GPU what keeps it busy."""


@dataclass(frozen=True, slots=True)
class Branches:
    """A prompt and the choices that may follow it, as token ids; neither is empty."""

    start: list[int]
    ends: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest choice."""
        return len(self.start) + max(map(len, self.ends))

    @property
    def width(self) -> int:
        """Tokens that are read: the last one of a choice predicts nothing."""
        return len(self.start) + sum(len(end) - 1 for end in self.ends)


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
    with attention(causal, "sdpa"):
        beginning = read_beginning(model, items[0].start[:shared]) if shared else None
        for group in _groups(items, shared, budget or BUDGETS.get(model.device.type, 4096)):
            rows = _read(model, [items[i] for i in group], shared, beginning)
            for i, row in zip(group, rows, strict=True):
                found[i] = row
    return found


def _row_by_row(model: Any, items: Sequence[Branches], *, packed: bool, budget: int | None) -> list[list[float]]:
    rows = [
        TrainingRow(item.start + end, [False] * len(item.start) + [True] * len(end))
        for item in items
        for end in item.ends
    ]
    sums = iter(row_losses(model, gather(rows), packed=packed, budget=budget)[0])
    return [[-next(sums) for _ in item.ends] for item in items]


def _groups(items: Sequence[Branches], shared: int, budget: int) -> list[list[int]]:
    """Indices of items to read together: of like width, so that little is padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(items)), key=lambda i: items[i].width):
        width = items[i].width - shared + shared // 4  # what is shared costs memory, but no reading
        if groups and (len(groups[-1]) + 1) * width <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _read(model: Any, items: Sequence[Branches], shared: int, beginning: Any) -> list[list[float]]:
    """The choices' log-probabilities, from one forward pass over all these items."""
    causal = causal_model(model)
    place = next(model.parameters()).device
    width = max(item.width for item in items) - shared
    ids = np.zeros((len(items), width), np.int64)
    positions = np.zeros((len(items), width), np.int64)
    seen = np.zeros((len(items), width, shared + width), np.bool_)
    seen[..., :shared] = True
    seen[:, np.arange(width), shared + np.arange(width)] = True  # padding sees itself, or its softmax is of nothing
    lower = np.tril(np.ones((width, width), np.bool_))
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for line, item in enumerate(items):
        n = len(item.start) - shared
        ids[line, :n] = item.start[shared:]
        positions[line, :n] = np.arange(shared, shared + n)
        seen[line, :n, shared : shared + n] = lower[:n, :n]
        at = n
        for end in item.ends:
            rest = len(end) - 1
            if rest:
                own = slice(at, at + rest)
                ids[line, own] = end[:-1]
                positions[line, own] = np.arange(shared + n, shared + n + rest)
                seen[line, own, shared : shared + n] = True
                seen[line, own, shared + at : shared + at + rest] = lower[:rest, :rest]
            sources.append(line * width + n - 1)
            sources.extend(range(line * width + at, line * width + at + rest))
            targets += end
            owners.append(len(end))
            at += rest
    hidden = causal.base_model(
        input_ids=torch.from_numpy(ids).to(place),
        attention_mask=torch.from_numpy(seen)[:, None].to(place),
        position_ids=torch.from_numpy(positions).to(place),
        past_key_values=copies(beginning, len(items)),
        use_cache=beginning is not None,
    ).last_hidden_state.flatten(0, 1)
    states = hidden.index_select(0, torch.tensor(sources, device=place))
    each = token_logprobs(model, states, torch.tensor(targets, device=place)).double()
    of_choice = torch.repeat_interleave(torch.tensor(owners, device=place))
    sums = iter(torch.zeros(len(owners), dtype=torch.float64, device=place).index_add_(0, of_choice, each).tolist())
    return [[next(sums) for _ in item.ends] for item in items]
