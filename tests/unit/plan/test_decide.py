"""The plan: a pure function, with its tree, its reasons and what cannot fit."""

from dataclasses import replace
from typing import Any

import pytest

from luthier.errors import RecipeError
from luthier.models.facts import ModelFacts
from luthier.plan import Hardware, Plan, decide, with_changes
from luthier.plan.hardware import Gpu
from luthier.recipe import Full, Lora, Tuning, build_recipe

TINY = ModelFacts(3_000_000, 2_700_000, 192, 6, 1024, 1024)
SMALL = ModelFacts(30_000_000, 27_000_000, 192, 6, 1024, 1024)
LARGE = ModelFacts(8_000_000_000, 7_000_000_000, 4096, 32, 128_000, 8192)
CPU = Hardware("a cpu", 2, 16 * 10**9, ())
CARD = Hardware("a cpu", 16, 64 * 10**9, (Gpu("a card", 24 * 10**9),))
EIGHT = Hardware("a cpu", 64, 64 * 10**9, (Gpu("NVIDIA H100 80GB HBM3", 80 * 10**9),) * 8)
HUGE = Hardware("a cpu", 16, 64 * 10**9, (Gpu("a card", 400 * 10**9),))


def dataset(rows: int) -> dict[str, Any]:
    part = {"rows": rows, "tokens": rows * 100, "trained_tokens": rows * 40, "longest": 300}
    return {"train": part, "validation": part | {"rows": 10}, "replay": None}


def plan(rows: int, facts: ModelFacts, hardware: Hardware, **sections: Any) -> Plan:
    recipe = build_recipe({"name": "x", "data": {"sources": [{"path": "x.jsonl"}]}, **sections})
    dtype = "float32" if hardware is CPU else "bfloat16"

    def count(tuning: Tuning) -> int:
        return facts.total if tuning.kind == "full" else 100 * getattr(tuning, "rank", 10)

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


def test_eight_cards_share_out_what_one_does_not_hold() -> None:
    full = plan(200_000, LARGE, EIGHT)
    assert (full.method, full.parallel, full.processes) == ("full", "fsdp", 8)
    assert full.memory["total"] < 0.95 * 80e9
    assert any("8 processes with fsdp" in reason for reason in full.reasons)
    small = plan(5_000, LARGE, EIGHT)
    assert (small.method, small.parallel) == ("lora", "ddp")
    one = plan(5_000, LARGE, EIGHT, training={"devices": 1})
    assert (one.processes, one.parallel) == (1, "one")
    assert small.seconds is not None
    assert one.seconds == pytest.approx(8 * small.seconds, rel=0.01)


@pytest.mark.parametrize(
    ("hardware", "asked", "sentence"),
    [
        (CARD, 2, "training.devices asks for 2 GPUs and this machine has 1"),
        (CPU, 3, "training.devices asks for 3 processes and this machine has 2 cores and no GPU"),
    ],
)
def test_more_devices_than_there_are_is_refused(hardware: Hardware, asked: int, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        plan(400, SMALL, hardware, training={"devices": asked})


def test_activations_are_recomputed_only_where_memory_needs_it() -> None:
    long = {"micro_batch_tokens": 16_384, "batch_tokens": 16_384}
    assert not plan(5_000, SMALL, CPU).recompute
    assert not plan(5_000, LARGE, HUGE, tuning={"kind": "lora"}, training=long).recompute
    needed = plan(5_000, LARGE, CARD, tuning={"kind": "lora"}, training=long | {"micro_batch_tokens": 4_096})
    assert needed.recompute
    assert any("computed again" in reason for reason in needed.reasons)
    assert plan(5_000, LARGE, HUGE, tuning={"kind": "lora"}, training={"memory": "lean"}).recompute == LARGE.layers
    least = needed.memory["total"]
    for memory in range(least, 2 * least, least // 8):  # the more there is, the less is done again
        card = replace(CARD, gpus=(Gpu("a card", int(memory / 0.94)),))
        found = plan(5_000, LARGE, card, tuning={"kind": "lora"}, training=long | {"micro_batch_tokens": 4_096})
        work = found.recompute + 0.2 * found.cheap
        assert work <= needed.recompute + 0.2 * needed.cheap
        needed = found
    assert not found.recompute
    with pytest.raises(RecipeError, match="lora needs about"):
        plan(5_000, LARGE, CARD, tuning={"kind": "lora"}, training=long | {"memory": "fast"})


def test_layers_that_do_not_divide_are_not_held_in_four_bits() -> None:
    odd = replace(LARGE, odd=("k_proj", "v_proj"))
    with pytest.raises(RecipeError, match="divides by 64, and here it does not in k_proj, v_proj"):
        plan(400, odd, CARD, tuning={"kind": "qlora"})
    assert plan(400, odd, CARD, tuning={"kind": "qlora", "bits": 8}).method == "qlora"
    assert plan(400, odd, Hardware("a cpu", 16, 64 * 10**9, (Gpu("a card", 80 * 10**9),))).method == "lora"


@pytest.mark.parametrize(
    ("kind", "rate", "word"), [("full", 0.1, "undo"), ("lora", 1e-7, "never"), ("prompt", 0.3, "")]
)
def test_a_rate_far_outside_is_warned_about(kind: str, rate: float, word: str) -> None:
    warnings = plan(400, SMALL, CPU, tuning={"kind": kind}, training={"learning_rate": rate}).warnings
    assert (word in warnings[0]) if word else not warnings


def test_the_rank_grows_with_what_there_is_to_learn() -> None:
    ranks = [plan(rows, SMALL, CPU).tuning.rank for rows in (10, 900, 99_000)]  # type: ignore[union-attr]
    assert ranks == sorted(ranks)
    assert ranks[0] == 16
    assert ranks[-1] == 128


def test_it_says_what_would_change_it() -> None:
    recipe = build_recipe({"name": "x", "data": {"sources": [{"path": "x.jsonl"}]}})
    given = (recipe, dataset(400), LARGE)
    small_card = Hardware("a cpu", 16, 64 * 10**9, (Gpu("a card", 40 * 10**9),))

    def count(tuning: Tuning) -> int:
        return LARGE.total if tuning.kind == "full" else 100 * getattr(tuning, "rank", 10)

    found = decide(*given, small_card, "bfloat16", count)
    changes = with_changes(found, *given, count, lambda gpu: "bfloat16" if gpu else "float32").changes
    assert found.method == "qlora"
    assert any(line.startswith("with 600 more rows: lora instead of qlora") for line in changes)
    assert any(
        line.startswith("with eight 80 GB cards: lora instead of qlora, 8 processes with ddp") for line in changes
    )


def test_preferences_take_longer_and_want_a_lower_rate() -> None:
    sft, dpo = (plan(5_000, SMALL, CPU, objective={"kind": kind}) for kind in ("sft", "dpo"))
    assert dpo.learning_rate == pytest.approx(sft.learning_rate / 5, rel=0.05)
    assert dpo.seconds is not None
    assert sft.seconds is not None
    assert dpo.seconds > sft.seconds


def test_processes_without_a_gpu_share_the_memory_of_the_machine() -> None:
    one, two = (plan(400, SMALL, CPU, training={"devices": n}) for n in (1, 2))
    assert (one.memory_available, two.memory_available) == (16 * 10**9, 8 * 10**9)
    small = replace(CPU, memory=4 * 10**9)
    facts = replace(SMALL, total=800_000_000)
    assert plan(400, facts, small, tuning={"kind": "lora"}).method == "lora"
    with pytest.raises(RecipeError, match=r"lora needs about \d\.\d GB and each process has 2\.0 GB"):
        plan(400, facts, small, tuning={"kind": "lora"}, training={"devices": 2})


def test_sharing_out_begins_with_the_whole_model() -> None:
    """Every process loads it before it is cut, so a model that fits in shares only is not promised to fit."""
    full = plan(200_000, LARGE, EIGHT, training={"micro_batch_tokens": 512})
    assert full.parallel == "fsdp"
    held = full.memory["loading"] + full.memory["gradients"] + full.memory["activations"] + full.memory["logits"]
    assert held >= 4 * LARGE.total
    huge = replace(LARGE, total=40 * 10**9, linear=38 * 10**9)
    with pytest.raises(RecipeError, match="full needs about"):
        plan(200_000, huge, EIGHT, tuning={"kind": "full"})


def test_what_would_not_change_it_is_said_too() -> None:
    recipe = build_recipe({"name": "x", "data": {"sources": [{"path": "x.jsonl"}]}, "tuning": {"kind": "full"}})
    given = (recipe, dataset(50), TINY)

    def count(_: Tuning) -> int:
        return TINY.total

    found = decide(*given, CPU, "float32", count)
    changes = with_changes(found, *given, count, lambda gpu: "bfloat16" if gpu else "float32").changes
    assert changes == ["no change with a 24 GB card, with an 80 GB card, with eight 80 GB cards"]


def test_blocks_are_compiled_where_the_run_is_long_enough() -> None:
    """On a CPU a few minutes are not; sampling does not get faster; what the recipe says is kept."""
    short, long = plan(500, SMALL, CPU), plan(900_000, SMALL, CPU, tuning={"kind": "lora"})
    assert short.seconds
    assert short.seconds < 1000
    assert not short.compile
    assert long.compile
    assert any("blocks are compiled: about 120 s" in line for line in long.reasons)
    assert plan(5_000, SMALL, CPU, training={"compile": True}).compile
    assert not plan(900_000, SMALL, CPU, tuning={"kind": "lora"}, training={"compile": False}).compile


def test_a_base_in_eight_bits_takes_a_quarter_of_its_memory() -> None:
    exact, rounded = (plan(5_000, LARGE, HUGE, tuning={"kind": "lora", "base": base}) for base in ("exact", "fp8"))
    saved = exact.memory["weights"] - rounded.memory["weights"]
    assert saved == LARGE.linear  # bfloat16 to 8 bits
    with pytest.raises(RecipeError, match=r"tuning\.base=int8"):
        plan(5_000, LARGE, HUGE, tuning={"kind": "qlora", "base": "int8"})


def test_values_and_a_model_before_training_take_their_memory() -> None:
    """PPO holds a critic, which learns as the policy does, and beside whole weights a frozen model for the KL."""
    rewards = {"rewards": [{"kind": "length", "goal": 20}]}

    def roles(kind: str, goal: dict[str, Any]) -> int:
        return plan(5_000, SMALL, CPU, tuning={"kind": kind}, objective=goal).memory["roles"]

    group = roles("full", {"kind": "grpo", "kl": 0.1, **rewards})
    assert roles("lora", {"kind": "sft"}) == 0
    assert group == roles("full", {"kind": "online_dpo", **rewards}) == 4 * SMALL.total
    adapters = plan(5_000, SMALL, CPU, tuning={"kind": "lora"}).memory
    assert roles("lora", {"kind": "ppo", **rewards}) == pytest.approx(adapters["activations"], rel=0.05)
    whole = plan(5_000, SMALL, CPU, tuning={"kind": "full"}).memory
    learned = whole["weights"] + whole["gradients"] + whole["optimizer"] + whole["activations"]
    assert roles("full", {"kind": "ppo", **rewards}) == learned + group
