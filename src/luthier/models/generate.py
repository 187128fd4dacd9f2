"""Answers in batches, greedy or drawn: rows of like length together, a common beginning read once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from luthier.models.beginning import attends_freely, common_beginning, read_beginning
from luthier.models.rows import Rows, choose
from luthier.text.render import read_answer
from luthier.text.tokenizer import Tokenizer

LOOK_EVERY = 8
"""Tokens between two looks for a text that ends an answer."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer: its token ids without the stop token, its text without reasoning, and whether it stopped by itself.

    `end` is the stop token that it wrote, if any, and `logprobs`, where asked for, the log-probability of each token
    when it was drawn, the stop token's last.
    """

    ids: list[int]
    text: str
    stopped: bool
    end: int | None = None
    logprobs: tuple[float, ...] = ()


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
    logprobs: bool = False
    """Note the log-probability of each token, at this temperature."""


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

        batch = _Batch([prompts[i] for i in group], shared, beginning, pad, draws, tell, [[] for _ in group])
        written = _write(model, tokenizer, batch, frozenset(stop), max_new_tokens, sampling)
        for i, ids, noted in zip(group, written, batch.logprobs, strict=True):
            stopped = bool(ids) and ids[-1] in stop
            end = ids[-1] if stopped else None
            kept = ids[:-1] if stopped else ids
            text = read_answer(kept, tokenizer)
            if cuts := [at for end in sampling.stop_texts if (at := text.find(end)) >= 0]:
                text, stopped = text[: min(cuts)], True
            answers[i] = Generated(kept, text, stopped, end, tuple(noted[: len(ids)]))
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
    logprobs: list[list[float]]


def _write(
    model: Any, tokenizer: Tokenizer, batch: _Batch, stop: frozenset[int], room: int, sampling: Sampling
) -> list[list[int]]:
    """Token after token; rows that have stopped leave the batch."""
    written: list[list[int]] = [[] for _ in batch.prompts]
    if room < 1:
        return written
    rows = Rows(model, batch.prompts, batch.pad, shared=batch.shared, beginning=batch.beginning)
    present = list(range(len(written)))
    for step in range(room):
        draws = [batch.draws[row] if batch.draws else None for row in present]
        count = len(present)
        following = choose(rows.logits, [sampling.temperature] * count, [sampling.top_p] * count, draws)
        for row, token in zip(present, following.tolist(), strict=True):
            written[row].append(token)
            batch.tell(row, token)
        if sampling.logprobs:
            shares = torch.log_softmax(rows.logits.float() / (sampling.temperature or 1.0), dim=-1)
            for row, logprob in zip(present, shares.gather(-1, following[:, None])[:, 0].tolist(), strict=True):
                batch.logprobs[row].append(logprob)
        look = bool(sampling.stop_texts) and step % LOOK_EVERY == LOOK_EVERY - 1
        live = [
            k
            for k, row in enumerate(present)
            if written[row][-1] not in stop and not (look and _ends(tokenizer, written[row], sampling.stop_texts))
        ]
        if not live or step == room - 1:
            break
        if len(live) < len(present) and rows.can_leave:
            rows.keep(live)
            following, present = following[live], [present[k] for k in live]
        rows.feed(following)
    return [_until_stop(ids_of_row, stop) for ids_of_row in written]


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
