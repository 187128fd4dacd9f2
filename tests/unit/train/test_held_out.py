"""What held-out answers say of a policy that moves: estimates against exact expectations, and when a look is due."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import POLICIES, job, run
from tiny import seen

from luthier import events
from luthier.train.experience import Experience, lay_answers
from luthier.train.held_out import LOOKS, HeldOut, change

GOOD = np.array([1.0, 0.0, 0.0, 0.5])
"""The score of each of four answers that a policy chooses from."""


def softmax(logits: Any) -> Any:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


class Drifting:
    """A policy over four answers to each of n prompts, whose exact score is known; looks are at one draw a prompt."""

    def __init__(self, n: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.logits = self.rng.normal(size=(n, 4))
        self.draws: Any = None
        self.held = HeldOut(0.02, rollout=n, prompts=n, logprobs=self.logprobs)

    def logprobs(self, _: Experience) -> torch.Tensor:
        probability = softmax(self.logits)[np.arange(len(self.draws)), self.draws]
        return torch.from_numpy(np.log(probability))

    @property
    def exact(self) -> float:
        return float((softmax(self.logits) @ GOOD).mean())

    def look(self, step: int) -> float:
        if self.held.kept is not None:
            self.held._changed(step)  # of the answers before these
        self.draws = np.array([self.rng.choice(4, p=p) for p in softmax(self.logits)])
        scores = GOOD[self.draws].tolist()
        rows = lay_answers([[1]] * len(scores), [[2]] * len(scores))
        answers = Experience(rows), Experience(rows)
        return self.held.add(step, answers, (scores, scores, scores, scores), []).mean


def test_the_change_is_that_of_the_expectation() -> None:
    """Averaged over draws, the estimated change of a policy's score is its exact change."""
    found = []
    for seed in range(40):
        policy = Drifting(100, seed)
        policy.look(0)
        before = policy.exact
        policy.logits[:, 0] -= 0.3
        scores = GOOD[policy.draws].tolist()
        told = change(1, policy.logprobs(policy.held.kept) - policy.held.kept.facts["logprobs"], scores, scores)
        found.append(np.mean(told.held_out) - (policy.exact - before))
        assert 0 < told.worn < 0.1
        assert told.reward == told.held_out
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_a_way_is_known_better_by_weighing_than_by_drawing_anew() -> None:
    """Over ten small steps down, the fall that estimates tell is nearer to the exact one than that of the draws."""
    weighed, drawn = [], []
    for seed in range(30):
        policy = Drifting(100, seed)
        policy.look(0)
        start = policy.exact
        for step in range(1, 11):
            policy.logits[:, 0] -= 0.1
            policy.look(step)
        looks, fall = policy.held.looks, policy.exact - start
        weighed.append(looks[-1].mean - looks[0].mean - fall)
        drawn.append(np.mean(looks[-1].held_out) - np.mean(looks[0].held_out) - fall)
    assert np.std(weighed) < 0.6 * np.std(drawn)
    assert abs(np.mean(weighed)) < 0.01


def test_a_policy_that_has_moved_far_is_known_by_its_new_answers() -> None:
    policy = Drifting(50, 0)
    policy.look(0)
    policy.logits[:] = -8.0
    policy.logits[:, 3] = 8.0
    assert policy.look(1) == pytest.approx(0.5, abs=0.02)


def test_equal_answers_say_that_nothing_changed_and_unknown_ones_say_nothing() -> None:
    assert change(1, torch.zeros(3), [1.0, None, 0.0], [None] * 3).held_out == [0, 0, 0]
    moved = change(1, torch.tensor([1.0, 0.0, 0.0]), [1.0, None, 0.0], [None] * 3)
    assert moved.held_out[0] > 0
    assert moved.held_out[1] == 0
    assert moved.reward == [0, 0, 0]


def test_a_look_is_due_when_answers_are_worn_out_but_not_at_any_price() -> None:
    policy = Drifting(100, 0)
    policy.look(0)
    policy.held.looks[0].greedy[:] = [0.0] * 100
    policy.held.apart = 3
    assert not policy.held.due(1)
    policy.logits[:, 0] += 1.0  # better, and far away
    assert not policy.held.due(2)
    assert policy.held.change is not None
    assert policy.held.change.worn > 0.1
    assert policy.held.due(3)


def test_a_look_is_due_at_once_when_the_score_has_fallen_while_the_reward_rose() -> None:
    policy = Drifting(100, 0)
    policy.look(0)
    policy.held.looks[0].greedy[:] = [0.0] * 100
    policy.held.apart = 100
    policy.held.looks[0].reward_estimate[:] = policy.held.looks[0].reward[:] = [1 - x for x in GOOD[policy.draws]]
    policy.logits[:, 0] += 0.2
    assert not policy.held.due(1)
    policy.logits[:, 0] -= 0.5
    assert policy.held.due(2)


def test_a_look_is_due_at_once_when_right_greedy_answers_are_gone() -> None:
    policy = Drifting(10, 0)
    policy.logits[:, 1:] = 0.0
    policy.logits[:, 0] = 2.0  # the right answer has 0.71
    policy.held.apart = 100
    policy.look(0)
    policy.draws[:] = 0
    policy.held.looks[0].greedy[:] = [1.0] * 10
    assert policy.held.greedy is not None
    policy.held.greedy.facts["least"] = policy.logprobs(policy.held.greedy)
    policy.logits[:, 0] = 1.2  # 0.53, still ahead
    assert policy.held._gone() == 0
    policy.logits[:3, 0] = 1.0  # 0.48
    assert policy.held._gone() == pytest.approx(0.3)
    assert policy.held.due(1)


def test_what_was_lost_before_the_last_look_counts_too() -> None:
    policy = Drifting(100, 0)
    policy.logits[:, 1:], policy.logits[:, 0] = 0.0, 2.0
    policy.held.apart = 100
    policy.look(0)
    policy.look(1)
    policy.draws[:] = 0
    policy.held.looks[0].greedy[:] = [1.0] * 91 + [0.0] * 9
    policy.held.looks[1].greedy[:] = [1.0] * 90 + [0.0] * 10
    assert policy.held.greedy is not None
    policy.held.greedy.facts["least"] = policy.logprobs(policy.held.greedy)
    assert not policy.held.due(2)
    policy.logits[0, 0] = 1.0
    assert policy.held._gone() == pytest.approx(0.01)
    assert policy.held.due(3)
    policy.held.looks[0].greedy[90] = 0.0  # the last look was as good as the best
    assert not policy.held.due(4)


def test_a_state_is_gone_back_to() -> None:
    policy = Drifting(20, 0)
    policy.look(0)
    tensors, facts = policy.held.state()
    assert all(name.startswith(LOOKS) for name in tensors)
    policy.logits[:, 0] -= 0.2
    expected, draws = policy.held._changed(1), policy.draws
    policy.look(1)
    policy.held.restore(tensors, facts)
    policy.draws = draws
    assert policy.held._changed(1) == expected
    assert [look.step for look in policy.held.looks] == [0]


@pytest.mark.parametrize(("every", "early"), [(None, True), (6, False)])
def test_a_run_looks_out_of_turn_unless_the_recipe_says_when(every: int | None, early: bool, tmp_path: Path) -> None:
    """The reward is vowels, the judge wants none of them; in turn there would be ten looks, at every 25th update."""
    judge = {"kind": "python", "path": str(Path(__file__).parents[2] / "reward_functions.py"), "function": "consonants"}
    given = POLICIES["grpo"] | {"held_out": [judge], "kl": 0, "prompts": 12, "passes": 1}
    training: dict[str, Any] = {"epochs": 250, "learning_rate": 1e-3, "schedule": "constant"}
    log = run(job(tmp_path, given, "lora", training | ({"max_steps": 6, "validate_every": 6} if every else {})))
    steps = [look.step for look in seen(log, events.Validated)]
    if early:
        assert 0 < steps[1] < 25
        assert seen(log, events.Stopped)[-1].step == steps[-1] < 25
        assert all("kl" in look.metrics for look in seen(log, events.Validated))
    else:
        assert steps == [0, 6]
