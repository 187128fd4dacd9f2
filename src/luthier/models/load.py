"""Loading weights: safetensors only, in a stated number format, quantised where the tuning asks for it."""

import warnings
from logging import getLogger
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from luthier.errors import DataError, Missing
from luthier.models.base import Base
from luthier.models.fastest import speeds
from luthier.models.mapped import give_back_unused, weight_files
from luthier.recipe import Dtype, Qlora
from luthier.text import load_tokenizer

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCORE = "score.weight"
DtypeName = Literal["float32", "bfloat16", "float16"]


def free_share() -> float:
    """Share of the GPU's memory that is free, once what nobody uses any more is given back."""
    torch.cuda.empty_cache()
    free, there = torch.cuda.mem_get_info()
    return free / there


def device() -> torch.device:
    """The device that training and generation use."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def training_dtype(asked: Dtype) -> DtypeName:
    """The number format of the weights: what was asked for, or what this machine is fast in.

    bfloat16 on a GPU that has it. On a CPU it is tried out: without AMX it is no faster than float32.
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return speeds().dtype


def machine_notes(asked: Dtype) -> list[str]:
    """What the plan says of how fast this machine is in which format, where the recipe leaves that open."""
    return [f"{speeds()}: so {training_dtype('auto')}"] if asked == "auto" else []


def load_model(base: Base, dtype: DtypeName, *, quantise: Qlora | None = None, scores: bool = False) -> torch.nn.Module:
    """A causal language model in evaluation mode on this machine's device, or a reward model with one score.

    The embeddings of new tokens begin at the mean of all others. A reward model's head that is in no file begins at
    small random numbers, always the same.

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
        settings["quantization_config"] = _fewer_bits(quantise, DTYPES[dtype])
        settings["device_map"] = {"": str(device())}
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    settings |= {"num_labels": 1} if scores else {}
    before = weight_files()
    try:
        model, report = kind.from_pretrained(str(base.folder), output_loading_info=True, **settings)
    except Exception as error:  # the libraries below raise whatever a damaged file leads them to
        raise DataError(
            f"the model cannot be loaded: {error}", where=str(base.folder), fix="fetch the model again, whole"
        ) from error
    missing = sorted(report["missing_keys"])
    if scores and SCORE in missing:
        missing.remove(SCORE)
        _begin_score(model)
    if missing:  # transformers would go on with random numbers
        raise DataError(
            f"{len(missing)} of the model's tensors are in no file, the first is {missing[0]}",
            where=str(base.folder),
            fix="fetch the model again, whole",
        )
    if quantise is None:
        model = model.to(device())
    else:
        give_back_unused(model, before)
    _keep_gradients_on_cpu(model)
    if base.new_tokens or base.end_token:
        add_tokens(model, base)
    return model.eval()  # type: ignore[no-any-return]


@torch.no_grad()
def _begin_score(model: Any) -> None:
    weight = model.score.weight
    start = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.shape[1] ** -0.5
    weight.copy_(start)


@torch.no_grad()
def add_tokens(model: Any, base: Base) -> None:
    """Make room for the recipe's new tokens, their embeddings at the mean of all others; note their ids."""
    tokenizer = base.tokenizer()
    if base.end_token and model.generation_config is not None:
        configured = base.stop_ids
        model.generation_config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *configured]))
        model.config.eos_token_id = tokenizer.eos_token_id
    ids = tokenizer.convert_tokens_to_ids(list(base.new_tokens))
    if not ids:
        return
    known = len(load_tokenizer(base.folder, trust_remote_code=base.trust_remote_code))
    if max(ids) >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    layers = {id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}
    new = [i for i in ids if i >= known]
    for weight in layers.values():  # one where both are tied
        if new and weight.device.type != "meta":
            weight[new] = weight[:known].mean(0)
    model.new_token_ids = ids


def _fewer_bits(quantise: Qlora, compute: torch.dtype) -> Any:
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise Missing("tuning 'qlora' needs bitsandbytes", fix="pip install 'luthier[qlora]'") from error
    heads = ["lm_head", "score"]
    if quantise.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=heads)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantise.double_quantisation is not False,
        bnb_4bit_compute_dtype=compute if quantise.compute_dtype == "auto" else DTYPES[quantise.compute_dtype],
        llm_int8_skip_modules=heads,
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
    getLogger("bitsandbytes").setLevel("ERROR")
    warnings.filterwarnings("ignore", module=r"(peft|transformers|torch|bitsandbytes|accelerate)(\..*)?")
