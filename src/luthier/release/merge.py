"""From a tuned model to one that any server loads: adapters merged in full precision, saved once."""

from pathlib import Path
from typing import Any

import torch

from luthier.artifact import disk_error
from luthier.errors import RecipeError
from luthier.models.base import Base
from luthier.models.load import DTYPES, DtypeName, load_model
from luthier.models.tuned import adapted, load_tuned, note_ends
from luthier.models.tuning import is_adapter
from luthier.recipe import MERGES, Qlora, Tuning
from luthier.text.tokenizer import Tokenizer


def merge(
    base: Base,
    tuned: Path,
    tuning: Tuning,
    tokenizer: Tokenizer,
    out: Path,
    *,
    trained_as: DtypeName,
    saved_as: DtypeName,
    scores: bool = False,
) -> None:
    """Write the merged model to `out`.

    The sum W + (alpha / rank) B A is made in float32. A 4-bit base is dequantised first: merging into the original
    weights would give another model than the one that was trained, since the adapter has learned beside the rounded
    ones.

    Raises:
        Missing: the disk is full or cannot be written.
        RecipeError: the tuning is of a kind that cannot be merged.
    """
    if tuning.kind not in MERGES:
        raise RecipeError(cannot_merge(tuning.kind), where="release.merge", fix="release.merge=false")
    model: Any
    if isinstance(tuning, Qlora):
        wrapped: Any = adapted(dequantised(base, trained_as, tuning, scores=scores), tuned)
        model = _merged(wrapped)
    else:
        model = load_tuned(base, tuned, tuning, "float32", scores=scores)
        model = _merged(model) if is_adapter(model) else model
    model = model.to(DTYPES[saved_as])
    model.config.dtype = DTYPES[saved_as]
    note_ends(model, tokenizer, base)
    with torch.no_grad():
        try:
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
        except OSError as error:
            raise disk_error(out, error) from error


def _merged(model: Any) -> Any:
    """The sum, with a head of its own where only the embedding it shared weights with was adapted."""
    causal = model.get_base_model()
    head, embedding = getattr(causal, "lm_head", None), causal.get_input_embeddings()
    if head is not None and hasattr(embedding, "lora_embedding_A") and embedding.weight is head.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        causal.config.tie_word_embeddings = False
    return model.merge_and_unload()


def as_trained(base: Base, tuned: Path, tuning: Tuning, dtype: DtypeName, *, scores: bool = False) -> Any:
    """The model that a merged one has to equal.

    Over a base in 8 bits that is the adapter beside the weights those bits stand for: in training the activations are
    rounded too, which no merged model can repeat.
    """
    if isinstance(tuning, Qlora) and tuning.bits == 8:
        return adapted(dequantised(base, dtype, tuning, scores=scores), tuned)
    return load_tuned(base, tuned, tuning, dtype, scores=scores)


def cannot_merge(kind: str) -> str:
    """Why a tuning is released as an adapter beside the base, and who can serve it."""
    if kind == "adapter":
        return (
            "bottleneck layers cannot be merged: what lies between their weights is not linear. They are served beside "
            "the base by luthier chat"
        )
    return (
        f"{kind} tuning cannot be merged: its virtual tokens are input, not weights. The adapter is served beside the "
        "base by luthier chat, or by any program that uses PEFT"
    )


@torch.no_grad()
def dequantised(base: Base, trained_as: DtypeName, tuning: Qlora, *, scores: bool = False) -> Any:
    """The base in float32, with each quantised layer's weights as its quantised form stands for them in training."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    model: Any = load_model(base, "float32", scores=scores)
    for name, layer in load_model(base, trained_as, quantise=tuning, scores=scores).named_modules():
        weight: Any = getattr(layer, "weight", None)
        if hasattr(weight, "quant_state"):
            model.get_submodule(name).weight.copy_(dequantize_4bit(weight.data, weight.quant_state))
        elif getattr(weight, "SCB", None) is not None:
            model.get_submodule(name).weight.copy_(int8_vectorwise_dequant(weight.CB, weight.SCB))
    return model
