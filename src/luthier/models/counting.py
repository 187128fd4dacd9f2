"""Counting a model's parameters on its shapes alone: no weight is loaded."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from luthier.errors import DataError
from luthier.models.base import Base
from luthier.models.facts import ModelFacts
from luthier.models.load import add_tokens
from luthier.models.tuning import TUNINGS
from luthier.recipe import Tuning

QUANTISED_TOGETHER = 64
"""Values that share one scale in 4 bits."""


def _shapes(base: Base, *, scores: bool = False) -> Any:
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(str(base.folder), trust_remote_code=base.trust_remote_code)
        if scores:
            config.num_labels = 1
        with torch.device("meta"):
            model = kind.from_config(config, trust_remote_code=base.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the model's config cannot be used: {error}", where=str(base.folder), fix="check it"
        ) from error
    if base.new_tokens:
        add_tokens(model, base)
    return model


def model_facts(base: Base) -> ModelFacts:
    """The facts of a base model."""
    model = _shapes(base)
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    odd = {name.rpartition(".")[2] for name, layer in layers.items() if layer.in_features % QUANTISED_TOGETHER}
    return ModelFacts(
        total=sum(p.numel() for p in model.parameters()),
        linear=sum(layer.weight.numel() for layer in layers.values()),
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        context=base.context,
        queries=heads * size,
        heads=heads,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        largest=max(p.numel() for p in model.parameters()),
        odd=tuple(sorted(odd)),
    )


def trainable_parameters(base: Base, tuning: Tuning, *, scores: bool = False) -> int:
    """Exactly how many parameters a tuning trains, counted on the tuned model's shapes; of a reward model too."""
    with torch.device("meta"):
        model = TUNINGS[tuning.kind](_shapes(base, scores=scores), tuning)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
