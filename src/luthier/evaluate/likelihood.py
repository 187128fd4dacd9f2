"""Log-likelihoods of rows and of choices, through the training forward; nothing is merged, no logits are held whole.

The choices of an item are branches of one row: the prompt is read once, and each choice sees the prompt and itself. A
beginning that all items share, few-shot examples for instance, is read once for all. Where attention is of a kind that
a mask cannot say everything about, each choice is a row of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.beginning import attends_freely, common_beginning, copies, read_beginning
from luthier.models.logprobs import batch_logprobs, token_logprobs
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.text.render import TrainingRow
from luthier.text.rows import gather

BUDGET = 4096
"""Tokens of one forward pass."""


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
def row_losses(model: Any, rows: TokenRows, *, packed: bool, budget: int = BUDGET) -> tuple[list[float], list[int]]:
    """Summed negative log-likelihood (nats) and number of trained tokens of each row."""
    model.eval()
    place = next(model.parameters()).device
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with attention(causal_model(model), NAME):
        for numbers in best_fit(rows.lengths.tolist(), budget):
            batch = lay_out(rows, numbers, packed=packed).to(place)
            each = torch.zeros(len(numbers), dtype=torch.float64, device=place)
            each.index_add_(0, batch.rows, -batch_logprobs(model, batch).double())
            labels = torch.bincount(batch.rows, minlength=len(numbers)).tolist()
            for number, loss, n in zip(numbers, each.tolist(), labels, strict=True):
                sums[number], counts[number] = loss, n
    return sums, counts


@torch.no_grad()
def branch_logprobs(
    model: Any, items: Sequence[Branches], *, packed: bool = True, budget: int = BUDGET
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
        for group in _groups(items, shared, budget):
            rows = _read(model, [items[i] for i in group], shared, beginning)
            for i, row in zip(group, rows, strict=True):
                found[i] = row
    return found


def _row_by_row(model: Any, items: Sequence[Branches], *, packed: bool, budget: int) -> list[list[float]]:
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
    ids = torch.zeros(len(items), width, dtype=torch.long)
    positions = torch.zeros(len(items), width, dtype=torch.long)
    seen = torch.zeros(len(items), 1, width, shared + width, dtype=torch.bool)
    seen[..., :shared] = True
    seen[..., shared:] |= torch.eye(width, dtype=torch.bool)  # padding sees itself, or its softmax would be of nothing
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for line, item in enumerate(items):
        start = item.start[shared:]
        n = len(start)
        ids[line, :n] = torch.tensor(start)
        positions[line, :n] = torch.arange(shared, shared + n)
        seen[line, 0, :n, shared : shared + n] = torch.ones(n, n, dtype=torch.bool).tril()
        at = n
        for end in item.ends:
            rest = len(end) - 1
            ids[line, at : at + rest] = torch.tensor(end[:-1], dtype=torch.long)
            positions[line, at : at + rest] = torch.arange(shared + n, shared + n + rest)
            seen[line, 0, at : at + rest, shared : shared + n] = True
            own = slice(shared + at, shared + at + rest)
            seen[line, 0, at : at + rest, own] = torch.ones(rest, rest, dtype=torch.bool).tril()
            sources += [line * width + n - 1, *(line * width + k for k in range(at, at + rest))]
            targets += end
            owners.append(len(end))
            at += rest
    hidden = causal.base_model(
        input_ids=ids.to(place),
        attention_mask=seen.to(place),
        position_ids=positions.to(place),
        past_key_values=copies(beginning, len(items)),
        use_cache=beginning is not None,
    ).last_hidden_state.flatten(0, 1)
    states = hidden.index_select(0, torch.tensor(sources, device=place))
    each = token_logprobs(model, states, torch.tensor(targets, device=place)).double()
    of_choice = torch.repeat_interleave(torch.tensor(owners, device=place))
    sums = iter(torch.zeros(len(owners), dtype=torch.float64, device=place).index_add_(0, of_choice, each).tolist())
    return [[next(sums) for _ in item.ends] for item in items]
