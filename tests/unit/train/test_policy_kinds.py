"""Every tuning learns from rewards for its own answers: the share of vowels rises."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from rollouts import POLICIES, job, run
from tiny import seen

from luthier import events
from luthier.errors import RecipeError
from luthier.recipe import Tuning, build_recipe

RATES = {
    "full": 1e-3, "freeze": 2e-3, "lora": 5e-3, "qlora": 5e-3, "prefix": 2e-1, "prompt": 1e-1, "p-tuning": 1e-3,
    "adapter": 5e-3, "ia3": 1e-1,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {"freeze": {"blocks": 1}, "prefix": {"tokens": 4}, "prompt": {"tokens": 4}}
PAIRS = [
    pytest.param("full", "ppo", marks=pytest.mark.proves("full", "ppo")),
    pytest.param("full", "grpo", marks=pytest.mark.proves("full", "grpo")),
    pytest.param("full", "rloo", marks=pytest.mark.proves("full", "rloo")),
    pytest.param("freeze", "ppo", marks=pytest.mark.proves("freeze", "ppo")),
    pytest.param("freeze", "grpo", marks=pytest.mark.proves("freeze", "grpo")),
    pytest.param("freeze", "rloo", marks=pytest.mark.proves("freeze", "rloo")),
    pytest.param("lora", "ppo", marks=pytest.mark.proves("lora", "ppo")),
    pytest.param("lora", "grpo", marks=pytest.mark.proves("lora", "grpo")),
    pytest.param("lora", "rloo", marks=pytest.mark.proves("lora", "rloo")),
    pytest.param("qlora", "ppo", marks=pytest.mark.proves("qlora", "ppo")),
    pytest.param("qlora", "grpo", marks=pytest.mark.proves("qlora", "grpo")),
    pytest.param("qlora", "rloo", marks=pytest.mark.proves("qlora", "rloo")),
    pytest.param("prefix", "grpo", marks=pytest.mark.proves("prefix", "grpo")),
    pytest.param("prefix", "rloo", marks=pytest.mark.proves("prefix", "rloo")),
    pytest.param("prompt", "grpo", marks=pytest.mark.proves("prompt", "grpo")),
    pytest.param("prompt", "rloo", marks=pytest.mark.proves("prompt", "rloo")),
    pytest.param("p-tuning", "grpo", marks=pytest.mark.proves("p-tuning", "grpo")),
    pytest.param("p-tuning", "rloo", marks=pytest.mark.proves("p-tuning", "rloo")),
    pytest.param("adapter", "grpo", marks=pytest.mark.proves("adapter", "grpo")),
    pytest.param("adapter", "rloo", marks=pytest.mark.proves("adapter", "rloo")),
    pytest.param("ia3", "grpo", marks=pytest.mark.proves("ia3", "grpo")),
    pytest.param("ia3", "rloo", marks=pytest.mark.proves("ia3", "rloo")),
    pytest.param("full", "online_dpo", marks=pytest.mark.proves("full", "online_dpo")),
    pytest.param("freeze", "online_dpo", marks=pytest.mark.proves("freeze", "online_dpo")),
    pytest.param("lora", "online_dpo", marks=pytest.mark.proves("lora", "online_dpo")),
    pytest.param("qlora", "online_dpo", marks=pytest.mark.proves("qlora", "online_dpo")),
    pytest.param("prefix", "online_dpo", marks=pytest.mark.proves("prefix", "online_dpo")),
    pytest.param("prompt", "online_dpo", marks=pytest.mark.proves("prompt", "online_dpo")),
    pytest.param("p-tuning", "online_dpo", marks=pytest.mark.proves("p-tuning", "online_dpo")),
    pytest.param("adapter", "online_dpo", marks=pytest.mark.proves("adapter", "online_dpo")),
    pytest.param("ia3", "online_dpo", marks=pytest.mark.proves("ia3", "online_dpo")),
]


@pytest.mark.parametrize(("tuning", "kind"), PAIRS)
def test_the_reward_rises(tuning: str, kind: str, tmp_path: Path) -> None:
    answers, epochs = {"ppo": (4, 5), "online_dpo": (2, 15)}.get(kind, (8, 5))
    given = POLICIES.get(kind, {"kind": kind, "max_new_tokens": 6})
    objective = {**given, "prompts": 12, "answers": answers, "held_out_prompts": 8}
    training = {"epochs": epochs, "learning_rate": RATES[tuning], "validate_every": 100, "schedule": "constant"}
    task = job(tmp_path, objective, "lora", training, micro_batch_tokens=4096)
    chosen = TypeAdapter(Tuning).validate_python({"kind": tuning, **SETTINGS.get(tuning, {})})
    log = run(replace(task, tuning=chosen))
    rewards = [rollout.metrics["reward"] for rollout in seen(log, events.RolledOut)]
    assert len(rewards) == epochs
    assert max(rewards[-2:]) > rewards[0] + 0.08
    if kind != "online_dpo":
        assert seen(log, events.Step)[0].metrics["ratio"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"tuning": {"kind": "prefix"}, "objective": {"kind": "ppo"}}, "ppo learns a value with an adapter"),
        ({"tuning": {"kind": "lora", "dropout": 0.1}}, "tuning.dropout has to be 0 with 'grpo'"),
        ({"training": {"neftune": 5}}, "training.neftune has to be 0"),
        ({"training": {"parallel": "fsdp"}}, "sampled by whole models; choose ddp"),
        ({"training": {"batch_tokens": 512}}, "training.batch_tokens has no effect with 'grpo'"),
        ({"objective": {"kind": "grpo", "answers": 1}}, "has to be 2 or more"),
        ({"objective": {"kind": "ppo", "kl": 0, "kl_target": 3}}, "kl_target has no effect with objective.kl=0"),
        ({"objective": {"kind": "ppo", "kl_horizon": 3}}, "kl_horizon has no effect without"),
        ({"objective": {"kind": "grpo", "rewards": []}}, "at least 1 item"),
    ],
)
def test_a_setting_without_an_effect_is_refused(sections: dict[str, Any], told: str) -> None:
    body: dict[str, Any] = {"name": "t", "data": {"sources": [{"path": "x.jsonl"}]}}
    rewards = {"rewards": [{"kind": "length", "goal": 4}]}
    body |= {**sections, "objective": rewards | {"kind": "grpo"} | sections.get("objective", {})}
    with pytest.raises(RecipeError, match=told):
        build_recipe(body)
