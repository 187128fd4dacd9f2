"""The tuned model on disk: an adapter in PEFT's format or our own, or a whole model in transformers' format."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from luthier.artifact import disk_error, write_text
from luthier.errors import DataError
from luthier.models import bottleneck
from luthier.models.base import Base
from luthier.models.load import DtypeName, load_model
from luthier.models.tuning import WHOLE, is_adapter, quantisation
from luthier.recipe import Tuning
from luthier.text.tokenizer import Tokenizer, stop_ids

ADAPTER = "adapter_model.safetensors"


def save_tuned(model: Any, tokenizer: Tokenizer, base: Base, folder: Path) -> None:
    """Write the tuned model with its tokenizer into `folder`.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    try:
        if hasattr(model, "bottlenecks"):
            bottleneck.save(model, base.name, folder)
        elif is_adapter(model):
            _save_adapter(model, base, folder)
        else:
            if hasattr(model, "score"):  # transformers' classifier looks for the last token that is not padding
                model.config.pad_token_id = tokenizer.pad_token_id
            note_ends(model, tokenizer, base)
            model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's card says nothing of this run
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise disk_error(folder, error if isinstance(error, OSError) else OSError(str(error))) from error


def note_ends(model: Any, tokenizer: Tokenizer, base: Base) -> None:
    """Name every token that ends an answer in the generation config, so that servers stop where training did."""
    if getattr(model, "generation_config", None) is not None:  # a reward model has none
        ends = stop_ids(tokenizer, base.stop_ids)
        model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else list(ends)


def _save_adapter(model: Any, base: Base, folder: Path) -> None:
    for config in model.peft_config.values():
        config.base_model_name_or_path = base.name
        config.revision = base.revision
    # PEFT would ask the hub whether the vocabulary grew; it never does here
    model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])
    if hasattr(model, "initial"):
        _save_difference(model, folder)


def _save_difference(model: Any, folder: Path) -> None:
    """Save an adapter whose beginning was taken out of the base as one of twice the rank that fits the unchanged base.

    W - B0 A0 + B A = W + [B | -B0] [A ; A0]. What PEFT offers for this loses trained magnitudes and whole layers.
    """
    tensors = {}
    for name, tensor in load_file(folder / ADAPTER).items():
        first = model.initial[name].to(tensor.device) if "lora_A" in name or "lora_B" in name else None
        if first is not None:
            tensor = torch.cat([tensor, first], dim=0) if "lora_A" in name else torch.cat([tensor, -first], dim=1)
        tensors[name] = tensor.contiguous()
    save_file(tensors, folder / ADAPTER)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    factor = 2**0.5 if config["use_rslora"] else 2  # so that the scaling stays what it was
    config |= {"r": 2 * config["r"], "lora_alpha": factor * config["lora_alpha"], "init_lora_weights": True}
    write_text(path, json.dumps(config, indent=2) + "\n")


def load_tuned(base: Base, folder: Path, tuning: Tuning, dtype: DtypeName, *, scores: bool = False) -> torch.nn.Module:
    """The tuned model as it was trained: the adapter on its base, or the whole model; a reward model with `scores`.

    Raises:
        DataError: the folder holds no model, or it is damaged.
    """
    if tuning.kind in WHOLE:
        return load_model(Base(base.name, folder, None, base.trust_remote_code), dtype, scores=scores)
    return adapted(load_model(base, dtype, quantise=quantisation(tuning), scores=scores), folder)


def adapted(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """A base model with the adapter in `folder` beside its weights.

    Raises:
        DataError: the folder holds no adapter that fits, or it is damaged.
    """
    from peft import PeftModel

    try:
        if (folder / bottleneck.CONFIG).exists():
            return bottleneck.load(model, folder)  # type: ignore[no-any-return]
        return PeftModel.from_pretrained(model, str(folder)).eval()  # type: ignore[no-any-return]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the adapter cannot be loaded: {error}", where=str(folder), fix="train it again") from error
