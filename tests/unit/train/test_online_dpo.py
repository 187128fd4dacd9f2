"""DPO on pairs of own answers: the loss by brute force, pairs that stay together, one update for every cut."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rollouts import SMALL, VOWELS, Death, curve, job, own_logprobs, ready, run, same_end
from tiny import seen

from luthier import events
from luthier.errors import RecipeError
from luthier.models.attention import NAME, attention
from luthier.models.tuning import causal_model, untuned
from luthier.recipe import build_recipe

PAIRS: dict[str, Any] = {**SMALL, "kind": "online_dpo"}
LONGER = {"max_steps": 6, "checkpoint_every": 1, "validate_every": 2, "learning_rate": 2e-3}


def test_the_loss_is_that_of_dpo_on_the_better_and_the_worse_answer(tmp_path: Path) -> None:
    model, objective, source = ready(job(tmp_path, PAIRS | {"beta": 0.7, "prompts": 12}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                parameter.normal_(std=0.05)
    with attention(causal_model(model), NAME):
        rows, update = source.update(0)
        batches = [source.setting.forward.lay(rows, numbers) for numbers in update]
        parts = [objective.loss(model, batch) for batch in batches]
    experience = objective.experience
    own = [float(part.sum()) for part in own_logprobs(model, experience).split(experience.counts.tolist())]
    with untuned(model):
        before = [float(part.sum()) for part in own_logprobs(model, experience).split(experience.counts.tolist())]
    scores, expected, right = experience.facts["scores"].tolist(), 0.0, 0.0
    for a in range(0, len(scores), 2):
        if scores[a] == scores[a + 1]:
            right += 0.5
            continue
        chosen, rejected = (a, a + 1) if scores[a] > scores[a + 1] else (a + 1, a)
        gap = (own[chosen] - before[chosen]) - (own[rejected] - before[rejected])
        expected += math.log1p(math.exp(-0.7 * gap))
        right += gap > 0
    assert len(set(scores)) > 2
    assert sum(part.total.item() for part in parts) == pytest.approx(expected, rel=1e-4)
    assert sum(part.metrics["accuracy"].item() for part in parts) == right
    assert sum(objective.units(batch) for batch in batches) == len(scores) / 2


def test_at_the_beginning_every_pair_costs_the_logarithm_of_two(tmp_path: Path) -> None:
    log = run(job(tmp_path, PAIRS, training={"max_steps": 1}))
    first, decided = seen(log, events.Step)[0], 1 - seen(log, events.RolledOut)[0].metrics["undecided"]
    assert decided > 0.5
    assert first.loss == pytest.approx(decided * math.log(2), abs=1e-5)
    assert first.metrics == pytest.approx({"accuracy": 0.5, "margin": 0.0}, abs=1e-5)


def test_answers_of_equal_reward_are_no_pair(tmp_path: Path) -> None:
    equal = {"rewards": [{"kind": "length", "goal": 6}]}  # every answer has its six tokens
    log = run(job(tmp_path, PAIRS | equal, training={"max_steps": 2}))
    assert [(step.loss, step.gradient_norm) for step in seen(log, events.Step)] == [(0, 0), (0, 0)]


def test_an_answer_without_a_reward_is_left_out_with_its_mate(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "count = 0\ndef reward(answer, item):\n    global count\n    count += 1\n    return 1 / (count % 9)\n"
    )
    odd = {"rewards": [VOWELS | {"path": str(file), "function": "reward"}], "held_out": [VOWELS], "prompts": 12}
    _, objective, source = ready(job(tmp_path, PAIRS | odd))
    with attention(causal_model(source.model), NAME):
        rows, update = source.update(0)
    groups = objective.experience.facts["groups"].tolist()
    assert groups[0::2] == groups[1::2]
    assert set(groups) == set(range(12)) - {4, 8}  # of the ninth and the eighteenth answer
    assert all(numbers[k] + 1 == numbers[k + 1] for numbers in update for k in range(0, len(numbers), 2))
    assert sorted(i for numbers in update for i in numbers) == list(range(len(rows)))


def test_the_update_is_the_same_however_it_is_cut_and_laid_out(tmp_path: Path) -> None:
    training = {"max_steps": 2, "learning_rate": 1e-3}
    whole = curve(run(job(tmp_path / "whole", PAIRS, "lora", training, micro_batch_tokens=100_000)))
    for name, plan in (
        ("pair by pair", {"micro_batch_tokens": 1}),
        ("padded", {"micro_batch_tokens": 60, "packing": False}),
    ):
        found = curve(run(job(tmp_path / name, PAIRS, "lora", training, **plan)))
        assert found == pytest.approx(whole, rel=2e-3, abs=2e-4), name


def test_ended_amid_a_rollout_the_next_step_has_the_same_bits(tmp_path: Path) -> None:
    def die(step: events.Step, _: int) -> None:
        if step.step == 4:
            raise Death

    whole, half = (job(tmp_path / name, PAIRS | {"passes": 2}, "lora", LONGER) for name in ("whole", "half"))
    expected = run(whole)
    with pytest.raises(Death):
        run(half, die)
    log = run(half)
    assert seen(log, events.Resumed)[-1].step == 3
    assert curve(log) == curve(expected)
    same_end(half, whole, "lora")


@pytest.mark.parametrize(
    ("setting", "told"), [({"clip": 0.1}, "clip"), ({"answers": 4}, "answers"), ({"kl": 0.1}, "kl")]
)
def test_settings_of_other_objectives_are_refused(setting: dict[str, Any], told: str) -> None:
    body: dict[str, Any] = {"name": "t", "data": {"sources": [{"path": "x.jsonl"}]}}
    with pytest.raises(RecipeError, match=told):
        build_recipe(body | {"objective": {"kind": "online_dpo", "rewards": [VOWELS], **setting}})
