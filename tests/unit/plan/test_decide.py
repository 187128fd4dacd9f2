"""The plan: a pure function, with its tree, its reasons and what cannot fit."""

from typing import Any

import pytest

from luthier.errors import RecipeError
from luthier.models.facts import ModelFacts
from luthier.plan import Hardware, Plan, decide
from luthier.plan.hardware import Gpu
from luthier.recipe import Full, Lora, Tuning, build_recipe

TINY = ModelFacts(3_000_000, 2_700_000, 192, 6, 1024, 1024)
SMALL = ModelFacts(30_000_000, 27_000_000, 192, 6, 1024, 1024)
LARGE = ModelFacts(8_000_000_000, 7_000_000_000, 4096, 32, 128_000, 8192)
CPU = Hardware("a cpu", 2, 16 * 10**9, ())
CARD = Hardware("a cpu", 16, 64 * 10**9, (Gpu("a card", 24 * 10**9),))
HUGE = Hardware("a cpu", 16, 64 * 10**9, (Gpu("a card", 400 * 10**9),))


def dataset(rows: int) -> dict[str, Any]:
    part = {"rows": rows, "tokens": rows * 100, "trained_tokens": rows * 40, "longest": 300}
    return {"train": part, "validation": part | {"rows": 10}, "replay": None}


def plan(rows: int, facts: ModelFacts, hardware: Hardware, **sections: Any) -> Plan:
    recipe = build_recipe({"name": "x", "data": {"sources": [{"path": "x.jsonl"}]}, **sections})
    dtype = "float32" if hardware is CPU else "bfloat16"

    def count(tuning: Tuning) -> int:
        return facts.total if tuning.kind == "full" else 1_000

    return decide(recipe, dataset(rows), facts, hardware, dtype, count)


@pytest.mark.parametrize(
    ("rows", "facts", "hardware", "kind", "reason"),
    [
        (400, TINY, CPU, "full", "3.0 million parameters is small enough to train all"),
        (5_000, TINY, CARD, "full", "small enough to train all"),
        (400, SMALL, CPU, "lora", "save memory, not time"),
        (400, SMALL, CARD, "lora", "small enough as it is"),
        (400, LARGE, CARD, "qlora", "4-bit base"),
        (5_000, SMALL, CPU, "lora", "adapters reach what full training would"),
        (200_000, SMALL, CPU, "full", "enough to train all weights"),
        (200_000, LARGE, HUGE, "full", "enough to train all weights"),
        (200_000, LARGE, CARD, "lora", "adapters reach"),
    ],
)
def test_the_tree(rows: int, facts: ModelFacts, hardware: Hardware, kind: str, reason: str) -> None:
    tuning = {"training": {"micro_batch_tokens": 512, "batch_tokens": 2048}}
    found = plan(rows, facts, hardware, **tuning)
    assert found.method == kind
    assert any(reason in line for line in found.reasons)


def test_what_the_recipe_says_is_kept() -> None:
    training = {"learning_rate": 0.5, "batch_tokens": 777, "micro_batch_tokens": 400, "packing": False}
    found = plan(400, SMALL, CPU, tuning={"kind": "full"}, training=training)
    assert isinstance(found.tuning, Full)
    assert (found.learning_rate, found.batch_tokens, found.micro_batch_tokens) == (0.5, 777, 400)
    assert not found.packing


def test_a_row_longer_than_a_pass_widens_the_pass() -> None:
    found = plan(400, SMALL, CPU, training={"micro_batch_tokens": 64, "batch_tokens": 2048})
    assert found.micro_batch_tokens == 300


def test_the_same_input_gives_the_same_plan() -> None:
    assert plan(400, SMALL, CPU).to_json() == plan(400, SMALL, CPU).to_json()


def test_what_cannot_fit_is_refused_with_a_way_out() -> None:
    with pytest.raises(RecipeError, match=r"full needs about 1\d\d\.\d GB and this machine has 24\.0 GB") as caught:
        plan(400, LARGE, CARD, tuning={"kind": "full"})
    assert "tuning.kind=qlora" in str(caught.value.fix)


def test_rates_fall_with_width_and_full_wants_a_tenth() -> None:
    narrow, wide = plan(400, SMALL, CPU), plan(5_000, LARGE, CARD)
    assert isinstance(wide.tuning, Lora)
    assert wide.learning_rate == pytest.approx(5e-4 * (2000 / 4096) ** 0.781, rel=0.05)
    assert narrow.learning_rate > wide.learning_rate
    full = plan(400, SMALL, CPU, tuning={"kind": "full"})
    assert full.learning_rate == pytest.approx(narrow.learning_rate / 10, rel=0.05)


def test_memory_adds_up() -> None:
    memory = dict(plan(400, SMALL, CPU).memory)
    assert memory.pop("total") == sum(memory.values())


def test_a_pass_shrinks_until_it_fits() -> None:
    found = plan(5_000, LARGE, CARD)
    assert found.micro_batch_tokens < found.batch_tokens
    assert found.memory["total"] <= 0.95 * 24 * 10**9
    assert any("tokens in one forward pass, not" in reason for reason in found.reasons)


def test_auto_holds_the_base_in_four_bits_where_it_does_not_fit() -> None:
    small_card = Hardware("a cpu", 16, 64 * 10**9, (Gpu("a card", 12 * 10**9),))
    found = plan(5_000, LARGE, small_card)
    assert found.method == "qlora"
    with pytest.raises(RecipeError, match="lora needs about"):
        plan(5_000, LARGE, small_card, tuning={"kind": "lora"})
