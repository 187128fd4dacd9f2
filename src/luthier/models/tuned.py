"""The tuned model on disk: an adapter in PEFT's format, or a whole model in transformers' format."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from luthier.artifact import disk_error
from luthier.errors import DataError
from luthier.models.base import Base
from luthier.models.load import DtypeName, load_model
from luthier.models.tuning import is_adapter, quantisation
from luthier.recipe import Tuning
from luthier.text.tokenizer import Tokenizer


def save_tuned(model: Any, tokenizer: Tokenizer, base: Base, folder: Path) -> None:
    """Write the tuned model with its tokenizer into `folder`.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    try:
        if is_adapter(model):
            for config in model.peft_config.values():
                config.base_model_name_or_path = base.name
                config.revision = base.revision
        # PEFT would ask the hub whether the vocabulary grew; it never does here
        model.save_pretrained(folder, **({"save_embedding_layers": False} if is_adapter(model) else {}))
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's card says nothing of this run
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise disk_error(folder, error if isinstance(error, OSError) else OSError(str(error))) from error


def load_tuned(base: Base, folder: Path, tuning: Tuning, dtype: DtypeName) -> torch.nn.Module:
    """The tuned model as it was trained: the adapter on its base, or the whole model.

    Raises:
        DataError: the folder holds no model, or it is damaged.
    """
    if tuning.kind == "full":
        return load_model(Base(base.name, folder, None, base.trust_remote_code), dtype)
    return adapted(load_model(base, dtype, quantise=quantisation(tuning)), folder)


def adapted(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """A base model with the adapter in `folder` beside its weights.

    Raises:
        DataError: the folder holds no adapter that fits, or it is damaged.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(folder)).eval()  # type: ignore[no-any-return]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the adapter cannot be loaded: {error}", where=str(folder), fix="train it again") from error
