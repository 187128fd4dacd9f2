"""Tunings: which weights may change. Adding one is a function and a line in `TUNINGS`."""

from collections.abc import Callable
from typing import Any

import peft
import torch

from luthier.errors import RecipeError
from luthier.recipe import Full, Lora, Qlora, Tuning

Module = torch.nn.Module


def full(model: Module, tuning: Full) -> Module:  # noqa: ARG001 - all tunings are called alike
    """Every weight may change."""
    return model.requires_grad_(True)


def lora(model: Module, tuning: Lora) -> Module:
    """Adapters W + (alpha / rank) B A beside frozen linear layers (Hu et al. 2021, equation 3), made by PEFT.

    Raises:
        RecipeError: no linear layer has one of the names in `target_modules`.
    """
    names = tuning.target_modules
    if names != "all-linear":
        known = linear_names(model)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise RecipeError(
                f"the model has no linear layer named {', '.join(unknown)}; it has: {', '.join(known)}",
                where="tuning.target_modules",
                fix="choose from these, or all-linear",
            )
    config = peft.LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    model.requires_grad_(False)
    return peft.get_peft_model(model, config)  # type: ignore[no-any-return]


TUNINGS: dict[str, Callable[[Module, Any], Module]] = {"full": full, "lora": lora, "qlora": lora}


def tune(model: Module, tuning: Tuning, seed: int) -> Module:
    """Make `model` trainable in the way of `tuning`; the same seed gives the same initial adapter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TUNINGS[tuning.kind](model, tuning)


def quantisation(tuning: Tuning) -> Qlora | None:
    """The quantisation that the tuning wants of the base, if any."""
    return tuning if isinstance(tuning, Qlora) else None


def causal_model(model: Module) -> Any:
    """The causal language model itself, with PEFT's wrapper taken off (adapters inside it stay)."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def is_adapter(model: Module) -> bool:
    """True when only adapters are trained and saved."""
    return isinstance(model, peft.PeftModel)


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of all linear layers but the output head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = (torch.nn.Linear,)
    found = (name for name, module in model.named_modules() if isinstance(module, linear) and module is not head)
    return sorted({name.rpartition(".")[2] for name in found})
