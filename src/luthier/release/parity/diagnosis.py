"""What makes numbers differ: a hyperparameter, or a tensor that is not the trained one."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from luthier.models.load import DTYPES
from luthier.release.gguf.families import for_llama_cpp
from luthier.release.gguf.write import Source, names_in_gguf
from luthier.release.parity.compare import Difference
from luthier.release.trained import Trained
from luthier.release.weights import Weights

IDLE = (
    "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "_name_or_path", "vocab_size",
    "tie_word_embeddings", "quantization_config", "bos_token_id", "eos_token_id", "pad_token_id", "model_type",
)  # fmt: skip
"""Keys of a config that the numbers do not depend on, or that a merge changes."""
ROUNDING = {
    "F32": 1e-6, "F16": 1e-3, "BF16": 6e-3, "Q8_0": 2e-2, "Q6_K": 5e-2, "Q5_K": 8e-2, "Q4_K": 0.16, "Q5_0": 8e-2,
    "Q4_0": 0.16,
}  # fmt: skip
"""ggml's type -> largest error of a tensor that its rounding explains, as a share of the tensor's norm."""
CAST = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 6e-3}


def of_folder(trained: Trained, folder: Path) -> Callable[[], Difference | None]:
    """A look through a merged model's config and tensors."""

    def look() -> Difference | None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if found := _settings(_flat(trained.config), _flat(config)):
            return found
        files = Weights.of_folder(folder)
        for name in trained.names:
            if name not in files.places:
                return Difference("weights", f"'{name}' is missing")
            if not trained.floating(name):
                continue
            there = files[name]
            dtype = next(key for key, value in DTYPES.items() if value == there.dtype)
            if found := _tensor(name, trained.value(name), there.float(), CAST[dtype]):
                return found
        return None

    return look


def of_gguf(source: Source, file: Path) -> Callable[[], Difference | None]:
    """A look through a GGUF file's facts and tensors, against the merged model that it was made from."""
    from luthier.release.gguf.reading import facts_of_file, tensors_of_file

    def look() -> Difference | None:
        facts = facts_of_file(file)
        expected = {f"{source.family.architecture}.{key}": value for key, value in source.facts.items()}
        if found := _settings(expected, facts):
            return found
        files = Weights.of_folder(source.folder)
        names = {there: here for here, there in names_in_gguf(source.folder, source.config, source.family).items()}
        for there, kind, tensor in tensors_of_file(file):
            here = names.pop(there, None)
            if here is None:
                continue
            ours = for_llama_cpp(here, files[here].float(), source.config, source.family)
            if found := _tensor(there, ours, tensor, ROUNDING.get(kind, 0.2)):
                return found
        return Difference("weights", f"'{next(iter(names))}' is missing") if names else None

    return look


def of_adapter(trained: Iterator[tuple[str, torch.Tensor]], file: Path) -> Callable[[], Difference | None]:
    """A look through a GGUF adapter, against the scaled halves that it should hold."""
    from luthier.release.gguf.reading import facts_of_file, tensors_of_file

    def look() -> Difference | None:
        scale = facts_of_file(file)["adapter.lora.alpha"]
        if scale != 0.0:
            return Difference("weights", f"the adapter's scale 'adapter.lora.alpha' is {scale}, written as 0.0")
        expected = dict(trained)
        for name, kind, tensor in tensors_of_file(file):
            if found := _tensor(name, expected[name], tensor, ROUNDING[kind]):
                return found
        return None

    return look


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's settings, those of positions under one name whichever release of transformers wrote it."""
    found = {key: value for key, value in config.items() if key not in IDLE and not isinstance(value, dict)}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found |= {f"rope {key}": value for key, value in rope.items()}
    if "rope_theta" in found:
        found["rope rope_theta"] = found.pop("rope_theta")
    return found


def _settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Difference | None:
    for key, value in ours.items():
        there = theirs.get(key)
        equal = abs(there - value) <= 1e-6 * abs(value) if _numbers(value, there) else there == value
        if not equal and not (key not in theirs and value is None):
            return Difference("numerics", f"the setting '{key}' is {value} in training, {there} there")
    return None


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _tensor(name: str, ours: torch.Tensor, theirs: torch.Tensor, rounding: float) -> Difference | None:
    if ours.shape != theirs.shape:
        return Difference("weights", f"'{name}' has shape {tuple(theirs.shape)}, trained {tuple(ours.shape)}")
    error = float((theirs - ours).double().norm() / max(float(ours.double().norm()), 1e-12))
    if error <= rounding:
        return None
    turned = ours.ndim == 2 and ours.shape[0] == ours.shape[1] and _near(theirs, ours.t(), rounding)
    how = "it is transposed" if turned else f"it is off by {error:.1%} of its size; rounding explains {rounding:.2%}"
    return Difference("weights", f"'{name}': {how}")


def _near(a: torch.Tensor, b: torch.Tensor, rounding: float) -> bool:
    return float((a - b).double().norm()) <= rounding * float(b.double().norm())
