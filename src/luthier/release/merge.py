"""From a tuned model to one that any server loads: adapters merged in full precision, saved once."""

from pathlib import Path
from typing import Any

import torch

from luthier.artifact import disk_error
from luthier.models.base import Base
from luthier.models.load import DTYPES, DtypeName
from luthier.models.tuned import load_tuned
from luthier.models.tuning import is_adapter
from luthier.recipe import Qlora, Tuning
from luthier.text.tokenizer import Tokenizer


def merge(base: Base, tuned: Path, tuning: Tuning, dtype: DtypeName, tokenizer: Tokenizer, out: Path) -> None:
    """Write the merged model to `out`.

    The sum W + (alpha / rank) B A is made in float32. A 4-bit base is dequantised first: merging into the original
    weights would give another model than the one that was trained, since the adapter has learned beside the rounded
    ones.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    model: Any = load_tuned(base, tuned, tuning, "float32")
    if isinstance(tuning, Qlora):
        model.base_model.model.dequantize()
        model = model.float()
    if is_adapter(model):
        model = model.merge_and_unload()
    model = model.to(DTYPES[dtype])
    model.config.dtype = DTYPES[dtype]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with torch.no_grad():
        try:
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
        except OSError as error:
            raise disk_error(out, error) from error
