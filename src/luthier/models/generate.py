"""Answers in batches, greedy or drawn: rows of like length together, a common beginning read once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from luthier.models.beginning import attends_freely, common_beginning, copies, read_beginning
from luthier.models.prompts import opening
from luthier.models.tuning import causal_model
from luthier.text.render import read_answer
from luthier.text.tokenizer import Tokenizer

LOOK_EVERY = 8
"""Tokens between two looks for a text that ends an answer."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer: its token ids without the stop token, its text without reasoning, and whether it stopped by itself."""

    ids: list[int]
    text: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: the likeliest at temperature 0, else drawn from the nucleus `top_p`.

    `seeds` has one number a prompt: an answer depends on its own alone, not on who else is in the batch.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seeds: Sequence[int] = ()
    stop_texts: Sequence[str] = ()
    """Texts that end an answer; what follows is cut off."""


GREEDY = Sampling()


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    stop: Sequence[int],
    max_new_tokens: int,
    batch_tokens: int = 8192,
    sampling: Sampling = GREEDY,
    progress: Callable[[int], None] = lambda _: None,
    on_token: Callable[[int, int], None] = lambda *_: None,
) -> list[Generated]:
    """Answers to tokenised prompts, in their order.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper around one; left in evaluation mode.
        tokenizer: for the text of the answers.
        prompts: token ids, as `render_prompt` gives them.
        stop: ids that end an answer.
        max_new_tokens: longest answer.
        batch_tokens: prompt tokens, padding included, that are answered together.
        sampling: greedy unless given.
        progress: called with the number of prompts just answered.
        on_token: called with a prompt's number and a token, as soon as the token is written; stop tokens are not.
    """
    model.eval()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0]
    answers: list[Generated | None] = [None] * len(prompts)
    shared = common_beginning(prompts) if attends_freely(model) else 0
    beginning = read_beginning(model, prompts[0][:shared]) if shared else None
    room = max_new_tokens + shared // 4  # what is shared costs memory, but no reading
    for group in _groups([p[shared:] for p in prompts], batch_tokens, room):
        draws = [np.random.default_rng(sampling.seeds[i]) for i in group] if sampling.temperature else []

        def tell(row: int, token: int, group: list[int] = group) -> None:
            if token not in stop:
                on_token(group[row], token)

        batch = _Batch([prompts[i] for i in group], shared, beginning, pad, draws, tell)
        written = _write(model, tokenizer, batch, frozenset(stop), max_new_tokens, sampling)
        for i, ids in zip(group, written, strict=True):
            stopped = bool(ids) and ids[-1] in stop
            kept = ids[:-1] if stopped else ids
            text = read_answer(kept, tokenizer)
            if cuts := [at for end in sampling.stop_texts if (at := text.find(end)) >= 0]:
                text, stopped = text[: min(cuts)], True
            answers[i] = Generated(kept, text, stopped)
        progress(len(group))
    return [answer for answer in answers if answer is not None]


@dataclass(slots=True)
class _Batch:
    """Prompts answered together; the first `shared` tokens of each lie in the cache `beginning` already."""

    prompts: list[list[int]]
    shared: int
    beginning: Any
    pad: int
    draws: list[np.random.Generator]
    tell: Callable[[int, int], None]


def _write(
    model: Any, tokenizer: Tokenizer, batch: _Batch, stop: frozenset[int], room: int, sampling: Sampling
) -> list[list[int]]:
    """Token after token, padded on the left; rows that have stopped leave the batch."""
    place = next(model.parameters()).device
    rest = [p[batch.shared :] for p in batch.prompts]
    width = max(map(len, rest))
    ids = torch.tensor([[batch.pad] * (width - len(p)) + p for p in rest], device=place)
    seen = [[1] * batch.shared + [0] * (width - len(p)) + [1] * len(p) for p in rest]
    mask = torch.tensor(seen, device=place)
    written: list[list[int]] = [[] for _ in rest]
    rows = list(range(len(rest)))
    cache = copies(batch.beginning, len(rest))
    inputs, mask = opening(model, ids, mask, cache)
    causal = causal_model(model)
    for step in range(room):
        fed = inputs["input_ids" if "input_ids" in inputs else "inputs_embeds"].shape[1]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -fed:]
        out = causal(**inputs, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        following = _choose(out.logits[:, -1], sampling, [batch.draws[row] for row in rows] if batch.draws else [])
        for row, token in zip(rows, following.tolist(), strict=True):
            written[row].append(token)
            batch.tell(row, token)
        look = bool(sampling.stop_texts) and step % LOOK_EVERY == LOOK_EVERY - 1
        live = [
            k
            for k, row in enumerate(rows)
            if written[row][-1] not in stop and not (look and _ends(tokenizer, written[row], sampling.stop_texts))
        ]
        if not live:
            break
        if len(live) < len(rows) and hasattr(cache, "batch_select_indices"):
            keep = torch.tensor(live, device=place)
            cache.batch_select_indices(keep)
            following, mask, rows = following[keep], mask[keep], [rows[k] for k in live]
        inputs = {"input_ids": following[:, None], "past_key_values": cache}
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return [_until_stop(ids_of_row, stop) for ids_of_row in written]


def _choose(logits: torch.Tensor, sampling: Sampling, draws: Sequence[np.random.Generator]) -> torch.Tensor:
    """The next token of each row [rows]: the likeliest, or one drawn by inverting the nucleus's distribution."""
    if not sampling.temperature:
        return logits.argmax(-1)
    shares, order = torch.softmax(logits.double() / sampling.temperature, dim=-1).sort(dim=-1, descending=True)
    sums = shares.cumsum(-1)
    # The nucleus: the fewest likeliest tokens that reach top_p, the one that reaches it included.
    inside = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], dim=-1) < sampling.top_p
    mass = (shares * inside).sum(-1, keepdim=True)
    drawn = torch.tensor([[draw.random()] for draw in draws], dtype=sums.dtype, device=sums.device)
    place = (sums < drawn * mass).sum(-1, keepdim=True).clamp(max=inside.sum(-1, keepdim=True) - 1)
    return order.gather(-1, place)[:, 0]


def _ends(tokenizer: Tokenizer, ids: list[int], texts: Sequence[str]) -> bool:
    text = tokenizer.decode(ids)
    return any(end in text for end in texts)


def _until_stop(ids: list[int], stop: frozenset[int]) -> list[int]:
    """Up to the first stop token, it included: caches that cannot drop rows let a stopped row write on."""
    end = next((k for k, token in enumerate(ids) if token in stop), len(ids) - 1)
    return ids[: end + 1]


def _groups(prompts: Sequence[list[int]], budget: int, room: int) -> list[list[int]]:
    """Indices of prompts to answer together: sorted by length, each group within the budget once padded."""
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if groups and (len(groups[-1]) + 1) * (len(prompts[i]) + room) <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
