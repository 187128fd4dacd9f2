"""A tuning's numbers from a config alone, and the formula of compute."""

import json
from pathlib import Path

import pytest

from luthier.errors import RecipeError
from luthier.models.facts import ModelFacts
from luthier.pipeline.model_plan import plan_model
from luthier.plan.compute import flops_per_token, speed
from luthier.recipe import Freeze, Full, Lora

LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "llama-2-7b.json"
    path.write_text(json.dumps(LLAMA_2_7B))
    return str(path)


def test_llama_2_7b_has_exactly_these_parameters(config: str) -> None:
    found = plan_model(config, "lora", 16, ["q_proj", "v_proj"], 2048)
    assert found["trainable_parameters"] == 32 * 2 * (4096 * 16 + 16 * 4096) == 8_388_608
    assert found["total_parameters"] == 6_738_415_616 + 8_388_608 == 6_746_804_224
    assert plan_model(config, "lora", 8, ["q_proj", "v_proj"], 2048)["trainable_parameters"] == 4_194_304
    assert plan_model(config, "full", None, None, 2048)["trainable_parameters"] == 6_738_415_616


def test_bad_settings_get_a_sentence(config: str) -> None:
    for method, rank, targets, sentence in (
        ("lora", 0, None, "tuning.rank: input should be greater than or equal to 1, not 0"),
        ("lora", 4, ["q_pro"], "the model has no layer named q_pro; it has: down_proj, gate_proj"),
        ("lara", None, None, "lara"),
        ("auto", None, None, "name a tuning"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            plan_model(config, method, rank, targets, 128)
    with pytest.raises(RecipeError, match=r"5,000 tokens do not fit the model's context of 4,096"):
        plan_model(config, "lora", 4, None, 5000)
    odd = Path(config).with_name("odd.json")
    odd.write_text(json.dumps(LLAMA_2_7B | {"intermediate_size": 11_000}))
    with pytest.raises(RecipeError, match="divides by 64, and here it does not in down_proj"):
        plan_model(str(odd), "qlora", 4, None, None)
    with pytest.raises(RecipeError, match="there is no model"):
        plan_model("./nowhere", "lora", None, None, 128)


def test_flops_are_the_formula_by_hand() -> None:
    facts = ModelFacts(0, 1_000_000, 100, 4, 5_000, 1024, queries=128)
    attention, head = 2 * 4 * 128 * 50, 2 * 5_000 * 100 * 0.5
    forward = 2 * 1_000_000 + attention + head
    given = {"length": 50, "labelled": 0.5}
    assert flops_per_token(facts, Full(kind="full"), 0, **given) == 3 * forward
    assert flops_per_token(facts, Lora(kind="lora"), 700, **given) == 2 * forward + 6 * 700
    assert flops_per_token(facts, Freeze(kind="freeze", blocks=1), 0, **given) == forward + (forward - head) / 2 + head


def test_speeds_are_known_by_the_cards_name() -> None:
    assert speed("NVIDIA H100 80GB HBM3", 4) == pytest.approx(0.35 * 989e12)
    assert speed("NVIDIA GeForce RTX 4090", 4) == pytest.approx(0.35 * 165e12)
    assert speed("A card nobody knows", 4) is None
    assert speed(None, 4) == 160e9


def test_more_settings_of_a_tuning_are_heard(config: str) -> None:
    plain = plan_model(config, "qlora", 16, None, 512)
    eight = plan_model(config, "qlora", 16, None, 512, ["tuning.bits=8"])
    assert eight["memory"]["weights"] > plain["memory"]["weights"] + 3e9 - 1e8
    dora = plan_model(config, "lora", 16, ["q_proj"], 512, ["tuning.dora=true"])
    assert dora["trainable_parameters"] == 32 * (2 * 4096 * 16 + 4096)
    again = plan_model(config, "lora", 16, None, 4096, ["training.memory=lean"])
    assert again["memory"]["activations"] < plan_model(config, "lora", 16, None, 4096)["memory"]["activations"] / 4
    assert plain["cards"]["a 24 GB card"]["fits"]
    assert not plan_model(config, "full", None, None, 512)["cards"]["an 80 GB card"]["fits"]
    with pytest.raises(RecipeError, match=r"'training.epochs=3' would have no effect without rows"):
        plan_model(config, "lora", 16, None, 512, ["training.epochs=3"])
