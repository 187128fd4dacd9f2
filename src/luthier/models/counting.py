"""Counting a model's parameters on its shapes alone: no weight is loaded."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.errors import DataError
from luthier.models.base import Base
from luthier.models.facts import ModelFacts
from luthier.models.load import add_tokens
from luthier.models.tuning import TUNINGS
from luthier.recipe import Tuning


def _shapes(base: Base) -> Any:
    try:
        config = AutoConfig.from_pretrained(str(base.folder), trust_remote_code=base.trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=base.trust_remote_code)
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
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return ModelFacts(
        total=sum(p.numel() for p in model.parameters()),
        linear=linear,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        context=base.context,
    )


def trainable_parameters(base: Base, tuning: Tuning) -> int:
    """Exactly how many parameters a tuning trains, counted on the tuned model's shapes."""
    with torch.device("meta"):
        model = TUNINGS[tuning.kind](_shapes(base), tuning)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
