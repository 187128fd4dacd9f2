"""The weights that training led to, tensor by tensor: what the base has, and what the adapter makes of it.

The model itself is built without storage (torch's `meta` device) and only the adapter is loaded. A layer gets its real
weights for the moment in which PEFT merges it, so that one layer is in memory at a time, and each way of adapting
(rsLoRA, DoRA, patterns of ranks, trained tokens, layers trained whole, factors) is merged by the code that trained it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from luthier.errors import DataError, RecipeError
from luthier.models.base import Base
from luthier.models.load import DTYPES, DtypeName, device
from luthier.models.tuning import WHOLE
from luthier.recipe import Lora, Qlora, Tuning
from luthier.release.weights import Weights
from luthier.text.tokenizer import load_tokenizer

HEAD = "lm_head.weight"
MOVES = "_move_adapter_to_device_of_base_layer"
SLICE = 16 * 2**20
"""Bytes of a tensor that nothing changed which are read and written at a time."""


class Trained:
    """What the tuned model's weights are, by the names of the base's files."""

    def __init__(self, base: Base, tuned: Path, tuning: Tuning, trained_as: DtypeName, *, scores: bool = False) -> None:
        """Open the base and load the adapter.

        Raises:
            DataError: the adapter does not fit, or a file is damaged.
            RecipeError: a layer that was trained is in no file of the base under a name of its own.
        """
        self.base, self.trained_as, self.scores = base, trained_as, scores
        self.whole = tuning.kind in WHOLE
        self.folder = tuned if self.whole else base.folder
        self.config: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        self._files = Weights.of_folder(self.folder)
        self._before = Weights.of_folder(base.folder)
        self._tuning = tuning
        self._model: Any = self._build(tuned)
        self._causal: Any = self._model if self.whole else self._model.get_base_model()
        self._grows: set[str] = set()
        self._changed = {} if self.whole else self._find_changed()
        if base.new_tokens and not self.whole:
            self._grows = self._vocabulary_tensors()
        self.tied = self._still_tied()
        self.names = self._names()

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, with those of new tokens."""
        return int(self._causal.get_input_embeddings().weight.shape[0])

    @property
    def model_config(self) -> Any:
        """The config as transformers has it."""
        return self._causal.config

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        if name in self._changed:
            return tuple(self._own_shape(name))
        if name in self._grows:
            return (self.vocabulary, *self._files.places[self._source(name)].shape[1:])
        return self._files.places[self._source(name)].shape

    def floating(self, name: str) -> bool:
        """Whether it holds numbers that are cast to the released format."""
        return (
            self._source(name) not in self._files.places
            or self._files.places[self._source(name)].dtype.is_floating_point
        )

    def stored(self, name: str) -> torch.dtype:
        """The type it has in the file."""
        place = self._files.places.get(self._source(name))
        return torch.float32 if place is None else place.dtype

    def changed(self, name: str) -> bool:
        """Whether training touched the tensor, or it grew; of a model trained as a whole that is any of them."""
        return self.whole or name in self._changed or name in self._grows

    def slices(self, name: str) -> Iterator[torch.Tensor]:
        """A tensor that no adapter touches, in slices, in float32 as the trained model has it."""
        for piece in self._files.rows(self._source(name), SLICE):
            yield piece.to(DTYPES[self.trained_as]).float() if piece.dtype.is_floating_point else piece

    def before(self, name: str) -> torch.Tensor | None:
        """The base's tensor as training saw it, in float32; None where the base has none of this name and shape."""
        name = self._source(name)
        if name not in self._before.places:
            return None
        return self._as_seen(name, self._before[name])

    @torch.no_grad()
    def value(self, name: str) -> torch.Tensor:
        """The trained tensor in float32."""
        if name in self._grows and name not in self._changed:
            return self._as_seen(name, self._files[name])
        if name not in self._changed:
            return torch.cat(list(self.slices(name))) if self.shape(name) else next(self.slices(name))
        layer, parameter = self._changed[name]
        if hasattr(layer, "modules_to_save"):
            found = layer.modules_to_save[layer.active_adapters[0]].get_parameter(parameter)
            return found.detach().float()  # type: ignore[no-any-return]
        if hasattr(layer, "token_adapter"):
            inner = layer.token_adapter
            self._put(inner.base_layer, name, ("weight",))
            merged = inner.get_merged_weights(layer.active_adapters)
            self._take(inner.base_layer, ("weight",))
            return merged.detach()  # type: ignore[no-any-return]
        held = [key for key, value in layer.get_base_layer().named_parameters(recurse=False) if value is not None]
        self._put(layer.get_base_layer(), name, held)
        layer.merge()
        merged = layer.get_base_layer().get_parameter(parameter).detach()
        layer.merged_adapters.clear()
        self._take(layer.get_base_layer(), held)
        return merged  # type: ignore[no-any-return]

    def adapter_layers(self) -> Iterator[tuple[str, Any]]:
        """The names of base tensors with the PEFT layer beside each."""
        for name, (layer, _) in self._changed.items():
            yield name, layer

    def _put(self, module: Any, name: str, parameters: Any) -> None:
        stem = name.rpartition(".")[0]
        for parameter in parameters:
            source = self._source(f"{stem}.{parameter}")
            real = self._as_seen(source, self._files[source])
            setattr(module, parameter, torch.nn.Parameter(real, requires_grad=False))

    def _take(self, module: Any, parameters: Any) -> None:
        for parameter in parameters:
            empty = torch.empty(getattr(module, parameter).shape, device="meta")
            setattr(module, parameter, torch.nn.Parameter(empty, requires_grad=False))

    def _as_seen(self, name: str, stored: torch.Tensor) -> torch.Tensor:
        """A tensor of the base as training saw it: in its format, quantised where it was, grown where it grew."""
        if not stored.dtype.is_floating_point:
            return stored
        seen = stored.to(DTYPES[self.trained_as])
        if isinstance(self._tuning, Qlora) and name.endswith(".weight"):
            module = self._module(name.removesuffix(".weight"))
            if isinstance(module, torch.nn.Linear | Conv1D) and not name.startswith(("lm_head.", "score.")):
                return requantised(seen, self._tuning, turned=isinstance(module, Conv1D))
        seen = seen.float()
        if name in self._grows:
            seen = self._grown(seen, stored)
        return seen

    def _grown(self, seen: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        known = len(load_tokenizer(self.base.folder, trust_remote_code=self.base.trust_remote_code))
        new = [i for i in self._new_ids() if i >= known]
        if max(self._new_ids()) >= seen.shape[0]:
            more = torch.zeros(max(self._new_ids()) + 1 - seen.shape[0], seen.shape[1])
            seen = torch.cat([seen, more])
        seen[new] = stored.to(DTYPES[self.trained_as])[:known].mean(0).float()
        return seen

    def _new_ids(self) -> list[int]:
        return list(self.base.tokenizer().convert_tokens_to_ids(list(self.base.new_tokens)))

    def _vocabulary_tensors(self) -> set[str]:
        inside = {id(self._causal.get_input_embeddings()), id(self._causal.get_output_embeddings())}
        found = {f"{self._plain(name)}.weight" for name, m in self._causal.named_modules() if id(m) in inside}
        return {self._source(name) for name in found}

    def _build(self, tuned: Path) -> Any:
        code = self.base.trust_remote_code
        config = AutoConfig.from_pretrained(str(self.folder), trust_remote_code=code)
        kind = AutoModelForSequenceClassification if self.scores else AutoModelForCausalLM
        if self.scores:
            config.num_labels = 1
        with torch.device("meta"):
            model: Any = kind.from_config(config, trust_remote_code=code)
        model.tie_weights()
        if self.whole:
            return model.eval()
        largest = max(self._new_ids(), default=-1)
        if largest >= model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(largest + 1, mean_resizing=False)
        return _with_adapter(model, tuned).eval()

    def _module(self, path: str) -> Any:
        """The layer of a file's tensor, without what was put around it."""
        for candidate in (path, f"{self._causal.base_model_prefix}.{path}"):
            try:
                module = self._causal.get_submodule(candidate)
            except AttributeError:
                continue
            while hasattr(module, "get_base_layer") or hasattr(module, "base_layer"):
                module = module.get_base_layer() if hasattr(module, "get_base_layer") else module.base_layer
            return module
        return None

    def _plain(self, path: str) -> str:
        """A layer's path without the parts that PEFT adds."""
        return ".".join(
            part for part in path.split(".") if part not in ("base_layer", "token_adapter", "original_module")
        )

    def _source(self, name: str) -> str:
        """The name in the base's files of a tensor of the model; a tied head's is the embedding's."""
        if name in self._files.places:
            return name
        short = name.removeprefix(f"{self._causal.base_model_prefix}.")
        if short in self._files.places:
            return short
        if name == HEAD and self._causal.config.tie_word_embeddings:
            embedding = self._causal.get_input_embeddings()
            path = next(path for path, module in self._causal.named_modules() if module is embedding)
            return self._source(f"{self._plain(path)}.weight")
        return name

    def _find_changed(self) -> dict[str, tuple[Any, str]]:
        """Name in the files -> the layer that changes it, and the parameter of that layer."""
        found: dict[str, tuple[Any, str]] = {}
        for path, module in self._causal.named_modules():
            if hasattr(module, "modules_to_save") and module.active_adapters:
                kept = module.modules_to_save[module.active_adapters[0]]
                inner = [name for name, _ in kept.named_parameters()]
            elif hasattr(module, "token_adapter"):
                inner = ["weight"]
            elif hasattr(module, "merge") and hasattr(module, "active_adapters") and ".token_adapter" not in f".{path}":
                inner = self._touched(module)
            else:
                continue
            for parameter in inner:
                name = f"{self._plain(path)}.{parameter}"
                found[self._named(name)] = (module, parameter)
        return found

    def _touched(self, layer: Any) -> list[str]:
        held = [name for name, value in layer.get_base_layer().named_parameters(recurse=False) if value is not None]
        return [name for name in held if name == "weight" or not isinstance(self._tuning, Lora)]

    def _named(self, name: str) -> str:
        source = self._source(name)
        if name in (HEAD, "score.weight"):  # the one may be tied, the other is trained anew
            return name
        if source not in self._files.places:
            raise RecipeError(
                f"'{name}' was trained, but the base's files hold its weights under another name",
                where="release.merge",
                fix="release.merge=false releases the adapter as it is",
            )
        return source

    def _own_shape(self, name: str) -> torch.Size:
        layer, parameter = self._changed[name]
        if hasattr(layer, "modules_to_save"):
            return layer.modules_to_save[layer.active_adapters[0]].get_parameter(parameter).shape  # type: ignore[no-any-return]
        inner = layer.token_adapter.base_layer if hasattr(layer, "token_adapter") else layer.get_base_layer()
        return inner.get_parameter(parameter).shape  # type: ignore[no-any-return]

    def _still_tied(self) -> bool:
        """Whether head and embedding are one tensor in the trained model."""
        if not self._causal.config.tie_word_embeddings or self.scores:
            return bool(self._causal.config.tie_word_embeddings)
        embedding = next((n for n in self._changed if n == self._embedding_name()), None)
        if embedding is None and HEAD not in self._changed:
            return True
        if embedding is None or HEAD not in self._changed:
            return False
        return bool(torch.equal(self.value(embedding), self.value(HEAD)))

    def _embedding_name(self) -> str:
        embedding = self._causal.get_input_embeddings()
        path = next(path for path, module in self._causal.named_modules() if module is embedding)
        return self._source(f"{self._plain(path)}.weight")

    def _names(self) -> list[str]:
        names = list(self._files.places)
        if self.scores:
            names = [name for name in names if not name.startswith("lm_head.")]
        if self.tied and self._causal.config.tie_word_embeddings:
            names = [name for name in names if name != HEAD]
        elif not self.scores and HEAD not in names and self._causal.config.tie_word_embeddings:
            names.append(HEAD)
        return names + [name for name in self._changed if name not in names and not (self.tied and name == HEAD)]


@torch.no_grad()
def requantised(weight: torch.Tensor, tuning: Qlora, *, turned: bool = False) -> torch.Tensor:
    """What a layer's weight becomes in 4 or 8 bits, in float32 [out, in]; on the device that training uses.

    Args:
        weight: in the number format of training.
        tuning: the bits, and whether the constants are quantised too.
        turned: whether the layer stores its weight the other way round (GPT-2).
    """
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from bitsandbytes.nn import Int8Params, Params4bit

    weight = weight.t().contiguous() if turned else weight
    if tuning.bits == 8:
        rounded: Any = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(device())
        seen = int8_vectorwise_dequant(rounded.CB, rounded.SCB)
    else:
        settings = {"compress_statistics": tuning.double_quantisation is not False, "quant_type": "nf4"}
        rounded = Params4bit(weight, requires_grad=False, **settings).to(device())
        seen = dequantize_4bit(rounded.data, rounded.quant_state)
    found: torch.Tensor = seen.float().cpu().reshape(weight.shape)
    return found.t().contiguous() if turned else found


def _with_adapter(model: Any, tuned: Path) -> Any:
    """PEFT's wrapper around a model without storage; the adapter's own weights are real, in float32."""
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        wrapped = PeftModel.from_pretrained(model, str(tuned), low_cpu_mem_usage=True)
        for module in wrapped.modules():
            if hasattr(module, MOVES):  # PEFT would send the adapter after the base, to where no tensor has storage
                setattr(module, MOVES, lambda *_, **__: None)
        tensors = {name: t.float() for name, t in load_file(tuned / "adapter_model.safetensors").items()}
        set_peft_model_state_dict(wrapped, tensors, low_cpu_mem_usage=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the adapter cannot be loaded: {error}", where=str(tuned), fix="train it again") from error
    return wrapped
