"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751): x + up(silu(down(x))) after parts of each block.

PEFT has no such method, so the format is ours: a folder with `bottleneck.json` (format, version, base, width, places)
and `bottleneck.safetensors`, which holds for block b and part p (`attention` or `mlp`)

    blocks.<b>.<p>.down.weight [width, hidden]     blocks.<b>.<p>.down.bias [width]
    blocks.<b>.<p>.up.weight   [hidden, width]     blocks.<b>.<p>.up.bias   [hidden]

What lies between the weights is not linear, so this cannot be merged: it is served by a program that adds the layers,
such as `luthier chat`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from luthier.artifact import write_text
from luthier.errors import DataError
from luthier.recipe import Adapter

FORMAT, VERSION = "luthier-bottleneck", 1
CONFIG, WEIGHTS = "bottleneck.json", "bottleneck.safetensors"
PARTS = {
    "attention": ("self_attn", "attn", "attention", "linear_attn"),
    "mlp": ("mlp", "feed_forward", "block_sparse_moe"),
}
"""Part -> what model families call it."""


class Bottleneck(torch.nn.Module):
    """x + up(silu(down(x))); `up` begins at zero, so that nothing changes at first."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Linear(hidden, width), torch.nn.Linear(width, hidden)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)
        self.on = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden], in the number format of `x`."""
        if not self.on:
            return x
        inner = F.silu(self.down(x.to(self.down.weight.dtype)))
        changed: torch.Tensor = x + self.up(inner).to(x.dtype)
        return changed


def blocks(model: Any) -> torch.nn.ModuleList:
    """The blocks of a model, first to last.

    Raises:
        DataError: it is built in another way.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise DataError(f"{type(model).__name__} has no list of blocks", fix="choose tuning.kind=lora")


def insert(model: Any, width: int, places: str) -> Any:
    """Freeze the model and put bottlenecks into its blocks."""
    model.requires_grad_(False)
    hidden = model.config.get_text_config().hidden_size
    for block in blocks(model):
        for part in ("attention", "mlp") if places == "both" else ("mlp",):
            module = next((found for name in PARTS[part] if (found := getattr(block, name, None)) is not None), None)
            if module is None:
                raise DataError(
                    f"a block of {type(model).__name__} has no part '{part}'", fix="choose tuning.kind=lora"
                )
            place = next(module.parameters()).device
            module.bottleneck = Bottleneck(hidden, width).to(place)
            module.register_forward_hook(_through_bottleneck)
    model.bottlenecks = {"format": FORMAT, "version": VERSION, "width": width, "places": places}
    return model


def _through_bottleneck(module: Any, _: Any, out: Any) -> Any:
    if isinstance(out, tuple):
        return (module.bottleneck(out[0]), *out[1:])
    return module.bottleneck(out)


def bottlenecks(model: Any) -> Iterator[tuple[str, Bottleneck]]:
    """Every bottleneck of a model with its name in the file."""
    for number, block in enumerate(blocks(model)):
        for part, names in PARTS.items():
            for name in names:
                found = getattr(getattr(block, name, None), "bottleneck", None)
                if found is not None:
                    yield f"blocks.{number}.{part}", found


def save(model: Any, base: str, folder: Path) -> None:
    """Write the two files."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, module in bottlenecks(model)
        for key, value in module.state_dict().items()
    }
    if hasattr(model, "score"):  # the head of a reward model is trained with them
        tensors["score.weight"] = model.score.weight.detach().cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    write_text(folder / CONFIG, json.dumps(model.bottlenecks | {"base": base}, indent=1) + "\n")


def load(model: Any, folder: Path) -> Any:
    """Put the bottlenecks saved in `folder` into a base model.

    Raises:
        DataError: the files are of another format or do not fit.
    """
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise DataError(f"not a {FORMAT} of version {VERSION}", where=str(folder / CONFIG), fix="train it again")
    model = insert(model, content["width"], content["places"])
    tensors = load_file(folder / WEIGHTS)
    score = tensors.pop("score.weight", None)
    if score is not None and hasattr(model, "score"):
        model.score.weight.data.copy_(score)
    for name, module in bottlenecks(model):
        wanted = {key: tensors.pop(f"{name}.{key}", None) for key in module.state_dict()}
        if any(value is None for value in wanted.values()):
            raise DataError(f"{name} is missing", where=str(folder / WEIGHTS), fix="train it again")
        module.load_state_dict(wanted)
    if tensors:
        raise DataError(f"{min(tensors)} fits nothing in the base", where=str(folder / WEIGHTS), fix="train it again")
    return model.eval()


def adapter(model: Any, tuning: Adapter) -> Any:
    """Bottleneck layers in every block; all else is frozen."""
    return insert(model, tuning.width, tuning.places)
