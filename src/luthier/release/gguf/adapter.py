"""A LoRA adapter as a GGUF adapter, which llama.cpp and Ollama apply beside a base they have already.

The scale is inside: B is written times its layer's own (alpha / rank, rank's root or pattern included), and the file's
alpha is 0, which llama.cpp reads as "no scale of its own".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from luthier.errors import RecipeError
from luthier.models.base import Base
from luthier.models.load import DtypeName
from luthier.recipe import Lora, Qlora, Tuning
from luthier.release.gguf.families import family_of, interleaved
from luthier.release.gguf.write import Lineage, need_gguf, packed, plain_type, put, write_file, write_lineage
from luthier.release.trained import Trained

ADAPTER_FORMATS = ("f32", "f16")


def why_not(tuning: Tuning) -> str | None:
    """Why a tuning is no GGUF adapter, or None where it is one."""
    if isinstance(tuning, Qlora):
        return "a qlora adapter has learned beside rounded weights: beside others it is another model"
    if not isinstance(tuning, Lora):
        return f"llama.cpp applies lora adapters only, not {tuning.kind}"
    if tuning.dora:
        return "llama.cpp's adapters have no magnitudes, so DoRA's cannot be written"
    if any(name.endswith("embed_tokens") for name in tuning.target_modules):
        return "the embedding is adapted, which llama.cpp's adapters do not do"
    if tuning.modules_to_save:
        return f"layers trained whole ({', '.join(tuning.modules_to_save)}) are no part of an adapter in llama.cpp"
    return None


def check_adapter(tuning: Tuning, new_tokens: tuple[str, ...] = ()) -> None:
    """Raise unless the tuning can be written as a GGUF adapter.

    Raises:
        RecipeError: with the reason.
    """
    reason = why_not(tuning) or ("new tokens are no part of an adapter in llama.cpp" if new_tokens else None)
    if reason:
        raise RecipeError(reason, where="release.gguf_adapter", fix="release.gguf writes the merged model instead")


def write_adapter(
    base: Base, tuned: Path, tuning: Tuning, out: Path, form: str, lineage: Lineage, trained_as: DtypeName
) -> None:
    """Write the adapter, whole or not at all.

    Args:
        base: the base model.
        tuned: folder of the adapter in PEFT's format.
        tuning: how it was tuned.
        out: the file.
        form: `f32` or `f16`.
        lineage: where it comes from.
        trained_as: number format of the weights in training.

    Raises:
        Missing: the disk is full or cannot be written.
        RecipeError: it is of a kind that llama.cpp does not apply.
    """
    check_adapter(tuning, base.new_tokens)
    gguf, trained = need_gguf(), Trained(base, tuned, tuning, trained_as)
    writer = gguf.GGUFWriter(None, family_of(trained.model_config.model_type).architecture)
    facts = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 0.0}
    for key, value in facts.items():
        put(writer, key, value)
    write_lineage(writer, lineage)
    stored = gguf.GGMLQuantizationType[form.upper()]
    tensors = []
    for place, tensor in adapter_tensors(trained):
        data = packed(gguf, tensor, stored)
        writer.add_tensor_info(place, data.shape, *plain_type(stored), data.nbytes, raw_dtype=stored)
        tensors.append(data)
    write_file(writer, out, iter(tensors))


def adapter_tensors(trained: Trained) -> Iterator[tuple[str, torch.Tensor]]:
    """Name in the file and tensor in float32, of both halves of every adapted layer.

    Raises:
        RecipeError: a layer is adapted that llama.cpp's adapters do not reach.
    """
    gguf, config = need_gguf(), trained.model_config
    family = family_of(config.model_type)
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[family.architecture], config.num_hidden_layers)
    for name, layer in trained.adapter_layers():
        place = names.get_name(name, try_suffixes=(".weight",))
        if place is None or not hasattr(layer, "lora_A") or not layer.lora_A:
            raise RecipeError(
                f"'{name}' is adapted, which llama.cpp's adapters do not do",
                where="release.gguf_adapter",
                fix="release.gguf writes the merged model instead",
            )
        for part, tensor in zip("ab", _halves(name, layer, config, family.permutes), strict=True):
            yield f"{place}.lora_{part}", tensor


def _halves(name: str, layer: Any, config: Any, permutes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, in], and B [out, rank] with its scale, its rows where llama.cpp has them."""
    active = layer.active_adapters[0]
    first, second = layer.lora_A[active].weight.detach(), layer.lora_B[active].weight.detach() * layer.scaling[active]
    part = name.split(".")[-2]
    if permutes and part in ("q_proj", "k_proj"):
        heads = config.num_attention_heads
        if part == "k_proj":
            heads = getattr(config, "num_key_value_heads", None) or heads
        second = interleaved(second, heads)
    return first.float(), second.float().contiguous()
