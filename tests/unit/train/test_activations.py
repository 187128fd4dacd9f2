"""The plan's formula of what a block keeps for the backward pass, against what autograd really keeps."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from tiny import llama, objective, random_rows

from luthier.models.attention import NAME, attention
from luthier.models.facts import ModelFacts
from luthier.models.fast_lora import make_fast
from luthier.models.tuning import causal_model, tune
from luthier.plan.memory import _kept
from luthier.recipe import Tuning
from luthier.train.forward import Forward

LENGTHS = [64, 64, 64]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
FACTS = ModelFacts(0, 0, 128, 0, 320, 256, queries=128, keys=64, inner=256)


def kept_bytes(asked: Tuning, layers: int) -> int:
    """Bytes of distinct tensors that the forward pass of a model with so many blocks leaves for the backward pass."""
    model: Any = tune(llama(num_hidden_layers=layers, **WIDE), asked, 0).train()
    make_fast(model)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no later tensor lies at the same place
        return tensor

    forward = Forward(True, 0, torch.float32, torch.device("cpu"))
    with (
        attention(causal_model(model), NAME),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        objective("sft").loss(model, forward.lay(random_rows(LENGTHS), range(3)))
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "full"},
        {"kind": "lora", "rank": 8},
        {"kind": "lora", "rank": 8, "dropout": 0.1},
        {"kind": "lora", "rank": 8, "dora": True},
        {"kind": "lora", "rank": 8, "target_modules": ["q_proj", "v_proj"]},
        {"kind": "lora", "rank": 8, "target_modules": ["o_proj", "down_proj"]},
        {"kind": "ia3"},
        {"kind": "prefix", "tokens": 4},
        {"kind": "adapter", "width": 16},
    ],
    ids=str,
)
def test_the_formula_is_what_autograd_keeps(asked: dict[str, Any]) -> None:
    tuning: Tuning = TypeAdapter(Tuning).validate_python(asked)
    block = (kept_bytes(tuning, 4) - kept_bytes(tuning, 2)) / 2
    assert block / sum(LENGTHS) / 4 == pytest.approx(_kept(FACTS, tuning), rel=0.07)


def test_of_frozen_blocks_nothing_is_kept() -> None:
    tuning: Tuning = TypeAdapter(Tuning).validate_python({"kind": "freeze", "blocks": 2})
    assert kept_bytes(tuning, 4) == pytest.approx(kept_bytes(tuning, 2), rel=0.02)
