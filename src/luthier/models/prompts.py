"""Prompt learning in our own batch layout: prompt tuning, P-tuning and prefix tuning, made and saved by PEFT.

PEFT puts its virtual tokens before the whole sequence and drops the positions, so packed rows would share one prompt
and see each other. Here every document gets the virtual tokens of its own, and its positions go on after them: packed
rows have the losses that they have alone.

    prompt, p-tuning   V embeddings are laid before each document
    prefix             V keys and values of each layer are seen by each document (`prefix` of `packed_attention`)
"""

from typing import Any

import peft
import torch
from transformers import DynamicCache

from luthier.models.attention import Documents
from luthier.models.batch import Batch
from luthier.recipe import Prefix, Prompt, PTuning

Module = torch.nn.Module


def prompt(model: Module, tuning: Prompt) -> Module:
    """Learned embeddings before every row."""
    init = "SAMPLE_VOCAB" if tuning.init == "vocabulary" else "RANDOM"
    return _wrap(model, peft.PromptTuningConfig, num_virtual_tokens=tuning.tokens, prompt_tuning_init=init)


def p_tuning(model: Module, tuning: PTuning) -> Module:
    """Learned embeddings before every row, made by a small network."""
    return _wrap(model, peft.PromptEncoderConfig, num_virtual_tokens=tuning.tokens, encoder_hidden_size=tuning.width)


def prefix(model: Module, tuning: Prefix) -> Module:
    """Learned keys and values in each layer."""
    return _wrap(
        model,
        peft.PrefixTuningConfig,
        num_virtual_tokens=tuning.tokens,
        prefix_projection=tuning.projection is not None,
        encoder_hidden_size=tuning.projection,
    )


def _wrap(model: Any, kind: Any, **settings: Any) -> Module:
    model.requires_grad_(False)
    task = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    wrapped: Module = peft.get_peft_model(model, kind(task_type=task, **settings))
    return wrapped


def learns_prompt(model: Any) -> bool:
    """True when the model has virtual tokens, and they are not switched off by `untuned`."""
    return (
        isinstance(model, peft.PeftModel)
        and bool(model.active_peft_config.is_prompt_learning)
        and not model._adapters_disabled
    )


def virtual_tokens(model: Any) -> int:
    """How many there are."""
    return int(model.active_peft_config.num_virtual_tokens) if learns_prompt(model) else 0


def is_prefix(model: Any) -> bool:
    """True for keys and values, false for embeddings."""
    return str(model.active_peft_config.peft_type.value) == "PREFIX_TUNING"


def _prefix(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, [heads, V, size]."""
    return [(layer.keys[0], layer.values[0]) for layer in model.get_prompt(1).layers]


def lay_prompts(model: Any, batch: Batch) -> tuple[dict[str, Any], torch.Tensor | None]:
    """The inputs of a forward pass with virtual tokens.

    Returns:
        The inputs, and the flat places of the batch's own tokens in the hidden states; None where all are.
    """
    v = virtual_tokens(model)
    positions = batch.positions + v
    if is_prefix(model):
        inputs = {"input_ids": batch.ids, "position_ids": positions, "prefix": _prefix(model)}
        return inputs | ({} if batch.documents is None else {"documents": Documents(batch.documents)}), None
    own = model.word_embeddings(batch.ids)
    learned = model.get_prompt(batch_size=1)[0].to(own.dtype)
    lines, length, hidden = own.shape
    starts = torch.arange(v, device=own.device)
    if batch.documents is None:
        embeds = torch.cat([learned.expand(lines, v, hidden), own], dim=1)
        places = torch.cat([starts.expand(lines, v), positions], dim=1)
        at = (
            torch.arange(lines, device=own.device)[:, None] * (v + length) + v + torch.arange(length, device=own.device)
        )
        return {"inputs_embeds": embeds, "position_ids": places}, at.flatten()
    bounds = torch.tensor(batch.documents, device=own.device)
    count = len(batch.documents) - 1
    document = torch.bucketize(torch.arange(length, device=own.device), bounds[1:], right=True)
    at = torch.arange(length, device=own.device) + (document + 1) * v
    before = (bounds[:-1] + torch.arange(count, device=own.device) * v)[:, None] + starts
    embeds = own.new_zeros(length + count * v, hidden)
    embeds = embeds.index_copy(0, at, own[0]).index_copy(0, before.flatten(), learned.repeat(count, 1))
    places = batch.positions.new_zeros(length + count * v)
    places = places.index_copy(0, at, positions[0]).index_copy(0, before.flatten(), starts.repeat(count))
    documents = [bound + number * v for number, bound in enumerate(batch.documents)]
    return {"inputs_embeds": embeds[None], "position_ids": places[None], "documents": Documents(documents)}, at


def opening(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Any = None
) -> tuple[dict[str, Any], torch.Tensor]:
    """The first step of generation from prompts padded on the left; without virtual tokens after what `cache` holds.

    Returns:
        Inputs without positions and mask, and the mask [lines, cached + tokens] with the virtual tokens in it.
    """
    if not learns_prompt(model):
        return {"input_ids": ids, "past_key_values": cache}, mask
    v = virtual_tokens(model)
    lines, length = ids.shape
    if is_prefix(model):
        cache = DynamicCache(config=model.get_base_model().config)
        for number, (keys, values) in enumerate(_prefix(model)):
            cache.update(keys.expand(lines, *keys.shape), values.expand(lines, *values.shape), number)
        return {"input_ids": ids, "past_key_values": cache}, torch.cat([mask.new_ones(lines, v), mask], dim=1)
    own = model.word_embeddings(ids)
    learned = model.get_prompt(batch_size=1)[0].to(own.dtype)
    padding = length - mask.sum(-1)  # the virtual tokens go between the padding and the prompt
    place = torch.arange(length, device=ids.device)
    at = place + torch.where(place < padding[:, None], 0, v)
    embeds = own.new_zeros(lines, length + v, own.shape[-1])
    embeds = embeds.scatter(1, at[..., None].expand_as(own), own)
    before = padding[:, None] + torch.arange(v, device=ids.device)
    embeds = embeds.scatter(1, before[..., None].expand(lines, v, own.shape[-1]), learned.expand(lines, *learned.shape))
    seen = (torch.arange(length + v, device=ids.device) >= padding[:, None]).to(mask.dtype)
    return {"inputs_embeds": embeds}, seen


def plain_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one row as PEFT computes them, the virtual tokens left out: the oracle of `lay_prompts`."""
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits if is_prefix(model) else logits[:, virtual_tokens(model) :]
