"""Rows that are answered together, token after token. Between two tokens rows may leave, and others may join.

rows = Rows(model, prompts, pad)           the prompts are read; `logits` says what may come next
rows.feed(choose(rows.logits, ...))        one more token for each
rows.keep([0, 2]); rows.join(more)         one left, others came
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer

from luthier.models.beginning import copies
from luthier.models.prompts import opening
from luthier.models.tuning import causal_model


class Rows:
    """Prompts of different lengths, padded on the left, with the keys and values of what was read.

    Attributes:
        logits: [rows, vocabulary], for the token after the last one of each row.
    """

    @torch.no_grad()
    def __init__(
        self, model: Any, prompts: Sequence[list[int]], pad: int, *, shared: int = 0, beginning: Any = None
    ) -> None:
        """Read the prompts.

        Args:
            model: a causal language model of transformers, or PEFT's wrapper around one, in evaluation mode.
            prompts: token ids; at least one prompt, none of them empty.
            pad: the id that fills up shorter ones.
            shared: so many first tokens of each lie in the cache `beginning` already.
            beginning: what `read_beginning` gave; it is copied.
        """
        self._causal = causal_model(model)
        place = next(model.parameters()).device
        rest = [p[shared:] for p in prompts]
        width = max(map(len, rest))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in rest], device=place)
        seen = [[1] * shared + [0] * (width - len(p)) + [1] * len(p) for p in rest]
        inputs, self._mask = opening(
            model, ids, torch.tensor(seen, device=place), copies(beginning, len(rest)) if shared else None
        )
        fed = inputs["input_ids" if "input_ids" in inputs else "inputs_embeds"].shape[1]
        self._read(inputs, (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -fed:])

    def __len__(self) -> int:
        return len(self._mask)

    @property
    def width(self) -> int:
        """Places of each row in the cache, padding included."""
        return int(self._mask.shape[1])

    @torch.no_grad()
    def feed(self, tokens: torch.Tensor) -> None:
        """Read one more token of each row, [rows]."""
        self._mask = F.pad(self._mask, (0, 1), value=1)
        positions = self._mask.sum(-1, keepdim=True) - 1
        self._read({"input_ids": tokens[:, None], "past_key_values": self._cache}, positions)

    def _read(self, inputs: dict[str, Any], positions: torch.Tensor) -> None:
        out = self._causal(
            **inputs, attention_mask=self._mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        self._cache = out.past_key_values
        self.logits: torch.Tensor = out.logits[:, -1]

    @property
    def can_leave(self) -> bool:
        """Whether single rows can be taken out of the cache."""
        return hasattr(self._cache, "batch_select_indices")

    @property
    def can_join(self) -> bool:
        """Whether other rows can be put beside these: where a row is its keys and values and nothing else.

        Not so where layers carry a state, or forget what is outside a window.
        """
        return all(type(layer) is DynamicLayer for layer in getattr(self._cache, "layers", [None]))

    def keep(self, rows: Sequence[int]) -> None:
        """Let all others leave."""
        kept = torch.tensor(list(rows), device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask, self.logits = self._mask[kept], self.logits[kept]
        if self.can_join and (empty := int(self._mask.any(0).int().argmax())) != 0:
            self._mask = self._mask[:, empty:]  # the longest has left: nobody needs its places
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, empty:], layer.values[:, :, empty:]

    def join(self, others: "Rows") -> None:
        """Put other rows of the same model after these; `others` is used up."""
        width = max(self.width, others.width)
        for mine, theirs in zip(self._cache.layers, others._cache.layers, strict=True):
            mine.keys = torch.cat([_widen(mine.keys, width), _widen(theirs.keys, width)])
            mine.values = torch.cat([_widen(mine.values, width), _widen(theirs.values, width)])
        masks = [F.pad(rows._mask, (width - rows.width, 0)) for rows in (self, others)]
        self._mask = torch.cat(masks)
        self.logits = torch.cat([self.logits, others.logits])


def _widen(values: torch.Tensor, width: int) -> torch.Tensor:
    """Empty places before those of [rows, heads, places, size], up to a width."""
    return F.pad(values, (0, 0, width - values.shape[2], 0))


def choose(
    logits: torch.Tensor,
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    draws: Sequence[np.random.Generator | None],
) -> torch.Tensor:
    """The next token of each row [rows]: the likeliest at temperature 0, else one drawn from its nucleus.

    A token is drawn by inverting the distribution at one random number of the row's own.
    """
    chosen = logits.argmax(-1)
    drawn = [row for row, temperature in enumerate(temperatures) if temperature]
    if not drawn:
        return chosen
    rows = torch.tensor(drawn, device=logits.device)

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    scaled = logits[rows].double() / column([temperatures[row] for row in drawn])
    numbers = column([float(draw.random()) if (draw := draws[row]) else 0.0 for row in drawn])
    shares = torch.softmax(scaled, dim=-1)
    if all(top_ps[row] >= 1 for row in drawn):  # the whole distribution needs no order
        sums = shares.cumsum(-1)
        place = (sums < numbers * sums[:, -1:]).sum(-1).clamp(max=shares.shape[-1] - 1)
        return chosen.index_copy(0, rows, place)
    shares, order = shares.sort(dim=-1, descending=True)
    sums = shares.cumsum(-1)
    # The nucleus: the fewest likeliest tokens that reach top_p, the one that reaches it included.
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], dim=-1)
    inside = before < column([top_ps[row] for row in drawn])
    inside[:, 0] = True  # also where top_p is 0
    mass = (shares * inside).sum(-1, keepdim=True)
    place = (sums < numbers * mass).sum(-1, keepdim=True).clamp(max=inside.sum(-1, keepdim=True) - 1)
    return chosen.index_copy(0, rows, order.gather(-1, place)[:, 0])


@torch.no_grad()
def chances(logits: torch.Tensor, tokens: Sequence[int], top: int) -> list[tuple[float, list[tuple[int, float]]]]:
    """For each row the log-probability (nats, temperature 1) of its token, and the `top` likeliest ids with theirs."""
    logs = torch.log_softmax(logits.float(), dim=-1)
    values, ids = logs.topk(top, dim=-1) if top else (logs[:, :0], logs[:, :0].long())
    own = logs[torch.arange(len(tokens)), torch.tensor(list(tokens), device=logs.device)]
    return [
        (value, list(zip(row_ids, row, strict=True)))
        for value, row_ids, row in zip(own.tolist(), ids.tolist(), values.tolist(), strict=True)
    ]
