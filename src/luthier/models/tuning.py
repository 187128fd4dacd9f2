"""Tunings: which weights may change. Adding one is a function and a line in `TUNINGS`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)

from luthier.errors import RecipeError
from luthier.models.bottleneck import adapter, blocks, bottlenecks
from luthier.models.prompts import p_tuning, prefix, prompt
from luthier.recipe import Freeze, Full, Ia3, Lora, Qlora, Tuning

Module = torch.nn.Module
INITS: dict[str, bool | str] = {"zero": True, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}
MUTATING = ("pissa", "olora")
"""Ways to begin that change the base's weights."""


def full(model: Module, tuning: Full) -> Module:  # noqa: ARG001 - all tunings are called alike
    """Every weight may change."""
    return model.requires_grad_(True)


def freeze(model: Any, tuning: Freeze) -> Module:
    """The last blocks and the norm after them may change; the head of a reward model, too.

    Raises:
        RecipeError: the model has fewer blocks.
    """
    model.requires_grad_(False)
    found = blocks(model)
    if tuning.blocks > len(found):
        raise RecipeError(
            f"the model has {len(found)} blocks, so the last {tuning.blocks} cannot be trained",
            where="tuning.blocks",
            fix=f"choose at most {len(found)}, or tuning.kind=full",
        )
    for block in found[-tuning.blocks :]:
        block.requires_grad_(True)
    for name, module in model.base_model.named_children():
        if "norm" in name or name == "ln_f":
            module.requires_grad_(True)
    if hasattr(model, "score"):
        model.score.requires_grad_(True)
    return model  # type: ignore[no-any-return]


def lora(model: Any, tuning: Lora) -> Module:
    """Adapters W + (alpha / rank) B A beside frozen layers (Hu et al. 2021, equation 3), made by PEFT.

    Tokens that the recipe adds to the vocabulary get trained embeddings beside them.

    Raises:
        RecipeError: the model has no layer of one of the names.
    """
    names = tuning.target_modules
    embedding = _name_of(model, model.get_input_embeddings())
    if names != "all-linear":
        _check_names(names, linear_names(model), "tuning.target_modules", "all-linear", allowed=embedding)
    whole = list(tuning.modules_to_save)
    _check_names(whole, sorted({n.rpartition(".")[2] for n, m in model.named_modules() if n}), "tuning.modules_to_save")
    config = peft.LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=names,
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",
        use_rslora=tuning.rslora,
        use_dora=tuning.dora,
        init_lora_weights=INITS[tuning.init],
        modules_to_save=whole or None,
        ensure_weight_tying=_both_ends(model, whole),
        trainable_token_indices=None if embedding in whole else _new_tokens(model),
    )
    model.requires_grad_(False)
    wrapped: Any = peft.get_peft_model(model, config)
    if tuning.init in MUTATING:  # what was taken out of the base, needed to save a plain adapter
        found = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        wrapped.initial = {name: tensor.detach().clone() for name, tensor in found.items() if ".lora_" in name}
    return wrapped  # type: ignore[no-any-return]


def _new_tokens(model: Any) -> dict[str, list[int]] | None:
    """Layer -> the ids whose rows are trained: the embedding's, and the output head's where it has its own."""
    ids = getattr(model, "new_token_ids", None)
    if not ids:
        return None
    return {_name_of(model, model.get_input_embeddings()): ids}


def _both_ends(model: Any, names: list[str]) -> bool:
    """Whether the embedding is trained and shares its weights with the head, so that they have to go on as one."""
    return bool(model.config.tie_word_embeddings) and _name_of(model, model.get_input_embeddings()) in names


def ia3(model: Any, tuning: Ia3) -> Module:
    """Learned factors on keys, values and the inner activation of the feed-forward part (Liu et al. 2022), by PEFT.

    Raises:
        RecipeError: the layers are not known for this kind of model, or it has none of these names.
    """
    kind = model.config.model_type
    names = tuning.target_modules or TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind)
    inner = tuning.feedforward_modules or TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, [])
    known = linear_names(model)
    if names is None:
        raise RecipeError(
            f"which layers to scale is not known for models of kind '{kind}'; it has: {', '.join(known)}",
            where="tuning.target_modules",
            fix="name the layers of keys, values and the second feed-forward layer",
        )
    _check_names(names, known, "tuning.target_modules")
    inner = [name for name in inner if name in names]
    task = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    model.requires_grad_(False)
    config = peft.IA3Config(target_modules=list(names), feedforward_modules=inner, task_type=task)
    return peft.get_peft_model(model, config)  # type: ignore[no-any-return]


def _check_names(names: list[str], known: list[str], where: str, also: str = "", *, allowed: str = "") -> None:
    unknown = [name for name in names if name not in known and name != allowed]
    if unknown:
        raise RecipeError(
            f"the model has no layer named {', '.join(unknown)}; it has: {', '.join(known)}",
            where=where,
            fix="choose from these" + (f", or {also}" if also else ""),
        )


TUNINGS: dict[str, Callable[[Module, Any], Module]] = {
    "full": full,
    "freeze": freeze,
    "lora": lora,
    "qlora": lora,
    "prefix": prefix,
    "prompt": prompt,
    "p-tuning": p_tuning,
    "adapter": adapter,
    "ia3": ia3,
}
WHOLE = ("full", "freeze")
"""Tunings whose result is a whole model, not an adapter beside the base."""


def tune(model: Any, tuning: Tuning, seed: int) -> Module:
    """Make `model` trainable in the way of `tuning`; the same seed gives the same initial adapter.

    Raises:
        RecipeError: the tuning asks for what the model does not have, or would leave new tokens untrained.
    """
    if getattr(model, "new_token_ids", None) and tuning.kind not in ("full", "lora", "qlora"):
        raise RecipeError(
            f"tuning '{tuning.kind}' would leave the embeddings of model.new_tokens as they begin",
            where="tuning.kind",
            fix="choose full, lora or qlora",
        )
    if hasattr(model, "bottlenecks") or isinstance(model, peft.PeftModel):
        raise ValueError("the model is tuned already")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TUNINGS[tuning.kind](model, tuning)


@contextmanager
def untuned(model: Any) -> Iterator[None]:
    """The model as it was before tuning: adapters are off for a while.

    For tunings that change the base's own weights this holds only before the first update.
    """
    if isinstance(model, peft.PeftModel) and not hasattr(model, "initial"):
        with model.disable_adapter():
            yield
        return
    inside = [module for _, module in bottlenecks(model)] if hasattr(model, "bottlenecks") else []
    try:
        for module in inside:
            module.on = False
        yield
    finally:
        for module in inside:
            module.on = True


def quantisation(tuning: Tuning) -> Qlora | None:
    """The quantisation that the tuning wants of the base, if any."""
    return tuning if isinstance(tuning, Qlora) else None


def causal_model(model: Module) -> Any:
    """The model of transformers itself, with PEFT's wrapper taken off (adapters inside it stay)."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def is_adapter(model: Module) -> bool:
    """True when only adapters are trained and saved."""
    return isinstance(model, peft.PeftModel) or hasattr(model, "bottlenecks")


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of all linear layers but the output head."""
    return sorted({name.rpartition(".")[2] for name in all_linear(model)})


def all_linear(model: Any) -> list[str]:
    """The whole names of all linear layers but the output head, of a language model or a reward model."""
    heads = (model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None, _score(model))
    linear = (torch.nn.Linear,)
    return [name for name, m in model.named_modules() if isinstance(m, linear) and not any(m is head for head in heads)]


def _score(model: Any) -> Any:
    return getattr(model, "score", None)


def _name_of(model: Any, wanted: Any) -> str:
    """The last part of a module's name."""
    name: str = next(name for name, module in model.named_modules() if module is wanted)
    return name.rpartition(".")[2]
