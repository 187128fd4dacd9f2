"""The loss head: log-probabilities of labelled tokens, without ever holding the logits of the whole batch.

Only hidden states that have a label reach the output head, and those in chunks. Each chunk's gradient is made while its
logits are there (`head.py`): beside a frozen head always, with one that learns where the loss is their sum; else the
backward pass makes them anew. One primitive, `token_logprobs`, serves every objective.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from luthier.models.attention import NAME, Documents
from luthier.models.batch import Batch
from luthier.models.head import Bend, frozen_logprobs, is_frozen, is_plain, summed_logprobs
from luthier.models.prompts import lay_prompts, learns_prompt, plain_logits
from luthier.models.tuning import causal_model

CHUNK_LOGITS = 1 << 24
"""Most logits held at a time: 64 MiB in float32."""


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """Last hidden states [tokens, hidden] of a batch, padding included."""
    causal = causal_model(model)
    if causal.config._attn_implementation != NAME:
        raise ValueError(f"training batches carry no attention mask and need the attention '{NAME}'")
    places = None
    if learns_prompt(model):
        inputs, places = lay_prompts(model, batch)
    else:
        inputs = {"input_ids": batch.ids, "position_ids": batch.positions}
        if batch.documents is not None:
            inputs["documents"] = Documents(batch.documents, batch.beginnings)
    with _noise(causal, batch):
        hidden: torch.Tensor = causal.base_model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)
    return hidden if places is None else hidden.index_select(0, places)


@contextmanager
def _noise(causal: Any, batch: Batch) -> Iterator[None]:
    """NEFTune (Jain et al. 2023, arXiv:2310.05914): uniform noise of alpha / sqrt(length x width) on embeddings."""
    if not batch.noise:
        yield
        return

    def add(_: Any, __: Any, embeds: torch.Tensor) -> torch.Tensor:
        size = batch.noise / (batch.lengths[..., None] * embeds.shape[-1]).sqrt()
        return embeds + (torch.rand_like(embeds) * 2 - 1) * size.to(embeds.dtype)

    hook = causal.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def token_logprobs(model: Any, hidden: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of each target.

    Args:
        model: whose output head to use.
        hidden: [labels, hidden] states that predict the targets.
        targets: [labels] token ids.
        temperature: that answers are sampled at; logits are divided by it.

    Returns:
        [labels], float32; differentiable.
    """
    causal = causal_model(model)
    head, config = causal.get_output_embeddings(), causal.config.get_text_config()
    rows = max(1, CHUNK_LOGITS // config.vocab_size)
    if is_frozen(head):
        return frozen_logprobs(hidden, head.weight, head.bias, targets, Bend.of(config, temperature), rows)
    if len(targets) <= rows:
        return _logprobs(causal, hidden, targets, temperature)
    parts = [
        checkpoint(_logprobs, causal, hidden[i : i + rows], targets[i : i + rows], temperature, use_reentrant=False)
        for i in range(0, len(targets), rows)
    ]
    return torch.cat(parts)


def _logprobs(causal: Any, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    logits = logits_of(causal, hidden).float()
    if temperature != 1.0:
        logits = logits / temperature
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def logits_of(causal: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits as the model itself makes them, with the scalings that some families apply after the head."""
    return Bend.of(causal.config.get_text_config()).apply(causal.get_output_embeddings()(hidden))


def batch_logprobs(model: Any, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities [labels] of a batch's targets."""
    hidden = hidden_states(model, batch)
    return token_logprobs(model, hidden.index_select(0, batch.sources), batch.targets, temperature)


def batch_logprob_sum(model: Any, batch: Batch) -> torch.Tensor:
    """The sum of a batch's `batch_logprobs`: what the gradient of a head that learns can be made for in one pass."""
    hidden = hidden_states(model, batch).index_select(0, batch.sources)
    causal = causal_model(model)
    head, config = causal.get_output_embeddings(), causal.config.get_text_config()
    if not is_plain(head) or is_frozen(head) or not torch.is_grad_enabled():
        return token_logprobs(model, hidden, batch.targets).sum()
    rows = max(1, CHUNK_LOGITS // config.vocab_size)
    return summed_logprobs(hidden, head.weight, head.bias, batch.targets, Bend.of(config), rows)


@torch.no_grad()
def plain_logprobs(model: Any, ids: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same for one row [1, tokens] the obvious way: the model's own mask and logits. The oracle of `check_head`."""
    learned = learns_prompt(model)
    logits = plain_logits(model, ids) if learned else causal_model(model)(input_ids=ids, use_cache=False).logits
    return torch.log_softmax(logits.flatten(0, 1).float(), dim=-1)[sources, targets]


def row_sums(logprobs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Log-probability [rows] of each row's trained tokens together."""
    return logprobs.new_zeros(len(batch.numbers)).index_add(0, batch.rows, logprobs)


def batch_scores(model: Any, batch: Batch) -> torch.Tensor:
    """Scores [rows] that a reward model gives, read at each row's last token; float32."""
    hidden = hidden_states(model, batch).index_select(0, batch.ends)
    return causal_model(model).score(hidden)[:, 0].float()  # type: ignore[no-any-return]


@torch.no_grad()
def plain_scores(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The score [1] of one row [1, tokens] as transformers' classifier gives it."""
    return model(input_ids=ids, use_cache=False).logits[:, 0].float()  # type: ignore[no-any-return]
