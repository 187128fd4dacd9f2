"""The recipes for larger models: their settings fit configs of those shapes, and the plan fits the card they name."""

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.models.base import Base
from luthier.models.counting import model_facts, trainable_parameters
from luthier.plan import Hardware, decide
from luthier.plan.hardware import Gpu
from luthier.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "recipes" / "large"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
QWEN = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "vocab_size": 151_936}


def shape(hidden: int, inner: int, layers: int, heads: int, keys: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "max_position_embeddings": 4096,
        **more,
    }


CASES = {
    "llama-3.1-8b": (shape(4096, 14336, 32, 32, 8, vocab_size=128_256, **LLAMA), 8_030_261_248, 41_943_040, 80),
    "qwen3-0.6b": (shape(1024, 3072, 28, 16, 8, tie_word_embeddings=True, **QWEN), 596_049_920, 596_049_920, 24),
    "qwen3-8b": (shape(4096, 12288, 36, 32, 8, tie_word_embeddings=False, **QWEN), 8_190_735_360, 87_293_952, 24),
    "llama-2-7b-chat": (shape(4096, 11008, 32, 32, 32, vocab_size=32_000, **LLAMA), 6_738_415_616, 8_388_608, 24),
}
"""Recipe -> config, parameters as published, those trained, GB of the card."""


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_recipe_fits_the_models_shape_and_the_card(name: str, tmp_path: Path) -> None:
    config, total, trained, memory = CASES[name]
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    (tmp_path / "config.json").write_text(json.dumps(config))
    base = Base(recipe.model.base, tmp_path, None, trust_remote_code=False)
    facts = model_facts(base)
    assert facts.total == total
    part = {"rows": 5_000, "tokens": 5_000 * 400, "trained_tokens": 5_000 * 200, "longest": 1_500}
    dataset = {"train": part, "validation": part, "replay": None}
    card = Hardware("a cpu", 16, 64 * 10**9, (Gpu("NVIDIA H100", memory * 10**9),))
    plan = decide(recipe, dataset, facts, card, "bfloat16", lambda tuning: trainable_parameters(base, tuning))
    assert plan.trainable_parameters == trained
    assert plan.memory["total"] <= 0.95 * memory * 10**9
    assert f"{trained:,}" in (RECIPES / "README.md").read_text()
    assert not plan.warnings


def test_every_recipe_here_is_checked() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == CASES.keys()
