"""Loading weights: safetensors only, in a stated number format, quantised where the tuning asks for it."""

import warnings
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM

from luthier.errors import DataError, Missing
from luthier.models.base import Base
from luthier.recipe import Dtype, Qlora

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DtypeName = Literal["float32", "bfloat16", "float16"]


def device() -> torch.device:
    """The device that training and generation use."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_dtype(asked: Dtype) -> DtypeName:
    """The number format of the weights: what was asked for, or what this hardware is fast in.

    Without AMX, bfloat16 on a CPU is half as fast as float32, so a CPU gets float32.
    """
    if asked != "auto":
        return asked
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def load_model(base: Base, dtype: DtypeName, *, quantise: Qlora | None = None) -> torch.nn.Module:
    """A causal language model in evaluation mode on this machine's device.

    Raises:
        DataError: the weights cannot be loaded.
        Missing: quantisation is asked for and bitsandbytes is not installed.
    """
    settings: dict[str, Any] = {
        "dtype": DTYPES[dtype],
        "use_safetensors": True,
        "trust_remote_code": base.trust_remote_code,
    }
    if quantise is not None:
        settings["quantization_config"] = _four_bits(quantise, DTYPES[dtype])
        settings["device_map"] = {"": str(device())}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(str(base.folder), output_loading_info=True, **settings)
    except Exception as error:  # the libraries below raise whatever a damaged file leads them to
        raise DataError(
            f"the model cannot be loaded: {error}", where=str(base.folder), fix="fetch the model again, whole"
        ) from error
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random numbers
        raise DataError(
            f"{len(missing)} of the model's tensors are in no file, the first is {missing[0]}",
            where=str(base.folder),
            fix="fetch the model again, whole",
        )
    if quantise is None:
        model = model.to(device())
    _keep_gradients_on_cpu(model)
    return model.eval()  # type: ignore[no-any-return]


def _four_bits(quantise: Qlora, compute: torch.dtype) -> Any:
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise Missing("tuning 'qlora' needs bitsandbytes", fix="pip install 'luthier[qlora]'") from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantise.double_quantisation,
        bnb_4bit_compute_dtype=compute,
    )


def _keep_gradients_on_cpu(model: Any) -> None:
    """Keep 4-bit layers from repacking their weights.

    On CPUs with AVX512-BF16 a forward pass in evaluation mode repacks them, and every later training pass then goes
    through a kernel without a backward: layers below lose their gradient, and nothing but a warning says so.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quiet() -> None:
    """Silence libraries' notices that say nothing about the user's run; errors still speak."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(peft|transformers|torch|bitsandbytes|accelerate)(\..*)?")
