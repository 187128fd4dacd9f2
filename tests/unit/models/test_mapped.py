"""Weights that were rounded do not stay in memory at their full size, and no other number is touched."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama

from luthier.models.base import Base
from luthier.models.load import load_model
from luthier.models.mapped import give_back_unused, weight_files
from luthier.models.rounded import round_base
from luthier.models.tuning import causal_model, tune
from luthier.recipe import Lora

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux says what a process holds, and gives it back"
)
WIDE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "vocab_size": 2048}


def held(folder: Path) -> int:
    """Bytes of the folder's weight file that this process holds, as the kernel counts."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            ours = line.endswith(f"{folder.name}/model.safetensors")
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    llama(**WIDE).save_pretrained(tmp_path)
    return load_model(Base("wide", tmp_path, None, trust_remote_code=False), "float32")


def linear_bytes(model: Any) -> int:
    return sum(
        m.weight.nbytes for n, m in model.named_modules() if type(m) is torch.nn.Linear and not n.endswith("lm_head")
    )


def test_a_rounded_base_gives_its_pages_back(loaded: Any, tmp_path: Path) -> None:
    large = linear_bytes(loaded)
    embeddings = loaded.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[5] = 7.0
    kept = {n: p.detach().clone() for n, p in loaded.named_parameters() if "proj" not in n}
    assert all(bool(p.isfinite().all()) for p in loaded.parameters())
    assert held(tmp_path) > large  # every page was looked at
    model = tune(loaded, Lora(kind="lora", rank=4), 1)
    round_base(model, "int8", multiplies=False)
    assert held(tmp_path) < 0.2 * large + sum(p.nbytes for p in kept.values())
    for name, parameter in causal_model(model).named_parameters():
        if name in kept:
            assert torch.equal(parameter, kept[name]), name
    assert bool((embeddings[5] == 7.0).all())


def test_only_files_of_the_model_at_hand_are_given_back(loaded: Any, tmp_path: Path) -> None:
    """An older model in the same process may have been changed in place: its file is left alone."""
    before = weight_files()
    other = tmp_path / "other"
    llama(seed=3, **WIDE).save_pretrained(other)
    newer = load_model(Base("other", other, None, trust_remote_code=False), "float32")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.fill_(3.0)
    wanted = {n: p.detach().clone() for n, p in newer.named_parameters()}
    unused = linear_bytes(newer)
    assert held(other) > unused
    for layer in causal_model(newer).model.layers:
        layer.mlp, layer.self_attn = torch.nn.Identity(), torch.nn.Identity()
    assert give_back_unused(newer, before) > 0.9 * unused
    assert held(other) < 0.1 * unused + sum(p.nbytes for p in newer.parameters())
    assert all(torch.equal(p, wanted[n]) for n, p in newer.named_parameters())
    assert all(bool((p == 3.0).all()) for p in loaded.parameters())
