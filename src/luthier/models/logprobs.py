"""The loss head: log-probabilities of labelled tokens, without ever holding the logits of the whole batch.

Only hidden states that have a label reach the output head, and those in chunks; the backward pass makes each chunk's
logits anew. One primitive, `token_logprobs`, serves every objective.
"""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from luthier.models.attention import NAME
from luthier.models.batch import Batch
from luthier.models.tuning import causal_model

CHUNK_LOGITS = 1 << 24
"""Most logits held at a time: 64 MiB in float32."""


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """Last hidden states [tokens, hidden] of a batch, padding included."""
    causal = causal_model(model)
    inputs: dict[str, Any] = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}
    if causal.config._attn_implementation != NAME:
        raise ValueError(f"training batches carry no attention mask and need the attention '{NAME}'")
    if batch.documents is not None:
        inputs["documents"] = batch.documents
    return causal.base_model(**inputs).last_hidden_state.flatten(0, 1)  # type: ignore[no-any-return]


def token_logprobs(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of each target.

    Args:
        model: whose output head to use.
        hidden: [labels, hidden] states that predict the targets.
        targets: [labels] token ids.

    Returns:
        [labels], float32; differentiable.
    """
    causal = causal_model(model)
    head = causal.get_output_embeddings()
    rows = max(1, CHUNK_LOGITS // head.weight.shape[0])
    if len(targets) <= rows:
        return _logprobs(causal, hidden, targets)
    parts = [
        checkpoint(_logprobs, causal, hidden[i : i + rows], targets[i : i + rows], use_reentrant=False)
        for i in range(0, len(targets), rows)
    ]
    return torch.cat(parts)


def _logprobs(causal: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits_of(causal, hidden).float()
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def logits_of(causal: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits as the model itself makes them, with the scalings that some families apply after the head."""
    config = causal.config.get_text_config()
    logits: torch.Tensor = causal.get_output_embeddings()(hidden)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2 and 3
        logits = torch.tanh(logits / cap) * cap
    return logits


def batch_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probabilities [labels] of a batch's targets."""
    hidden = hidden_states(model, batch)
    return token_logprobs(model, hidden.index_select(0, batch.sources), batch.targets)


@torch.no_grad()
def plain_logprobs(model: Any, ids: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same for one row [1, tokens] the obvious way: the model's own mask and logits. The oracle of `check_head`."""
    logits = causal_model(model)(input_ids=ids, use_cache=False).logits.flatten(0, 1).float()
    return torch.log_softmax(logits, dim=-1)[sources, targets]
