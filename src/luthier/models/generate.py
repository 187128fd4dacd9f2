"""Greedy answers in batches, rows of like length together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer: its token ids without the stop token, its text, and whether the model stopped by itself."""

    ids: list[int]
    text: str
    stopped: bool


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    stop: Sequence[int],
    max_new_tokens: int,
    batch_tokens: int = 8192,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Generated]:
    """Greedy answers to tokenised prompts, in their order.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper around one; left in evaluation mode.
        tokenizer: for the text of the answers.
        prompts: token ids, as `render_prompt` gives them.
        stop: ids that end an answer.
        max_new_tokens: longest answer.
        batch_tokens: prompt tokens, padding included, that are answered together.
        progress: called with the number of prompts just answered.
    """
    model.eval()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0]
    answers: list[Generated | None] = [None] * len(prompts)
    for group in _groups(prompts, batch_tokens, max_new_tokens):
        written = _greedy(model, [prompts[i] for i in group], pad, frozenset(stop), max_new_tokens)
        for i, ids in zip(group, written, strict=True):
            stopped = bool(ids) and ids[-1] in stop
            kept = ids[:-1] if stopped else ids
            answers[i] = Generated(kept, tokenizer.decode(kept), stopped)
        progress(len(group))
    return [answer for answer in answers if answer is not None]


def _greedy(model: Any, prompts: list[list[int]], pad: int, stop: frozenset[int], room: int) -> list[list[int]]:
    """The most likely token again and again, padded on the left; rows that have stopped leave the batch."""
    place = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=place)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=place)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    cache = None
    for _ in range(room):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        following = out.logits[:, -1].argmax(-1)
        for row, token in zip(rows, following.tolist(), strict=True):
            written[row].append(token)
        live = [k for k, row in enumerate(rows) if written[row][-1] not in stop]
        if not live:
            break
        if len(live) < len(rows) and hasattr(cache, "batch_select_indices"):
            keep = torch.tensor(live, device=place)
            cache.batch_select_indices(keep)
            following, mask, rows = following[keep], mask[keep], [rows[k] for k in live]
        ids = following[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return [_until_stop(ids_of_row, stop) for ids_of_row in written]


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
