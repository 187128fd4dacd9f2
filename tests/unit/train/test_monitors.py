"""The rule that ends a gamed run, and the numbers of a rollout."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rollouts import POLICIES, job, run
from tiny import seen

from luthier import events
from luthier.text.render import TrainingRow
from luthier.text.rows import gather
from luthier.train.experience import Experience
from luthier.train.monitors import Look, best_of, gamed, of_rollout
from luthier.train.rewards import Worth


def look(step: int, right: int, reward: float, n: int = 200) -> Look:
    """`right` of n held-out answers are right, always the first ones."""
    return Look(step, [float(i < right) for i in range(n)], [reward] * n, ["text"])


def test_a_sure_fall_with_a_rising_reward_ends_the_run_at_once() -> None:
    looks = [look(0, 100, 1.0), look(5, 120, 2.0), look(10, 110, 3.0)]
    found = gamed(looks, 0.02)
    assert found is not None
    assert "from 2.000 to 3.000" in found
    assert "from 0.600 to 0.550 since update 5" in found


def test_a_small_fall_has_to_be_seen_twice() -> None:
    rng = np.random.default_rng(0)
    noisy = [float(x) for x in rng.permutation([1.0] * 115 + [0.0] * 85)]
    fallen = Look(10, noisy, [3.0] * 200)
    best = look(5, 121, 2.0)
    assert best.mean - fallen.mean > 0.02
    assert gamed([best, fallen], 0.02) is None  # on these prompts chance might have done it
    again = Look(15, noisy, [3.5] * 200)
    assert gamed([best, fallen, again], 0.02) is not None


@pytest.mark.parametrize(
    "last",
    [look(10, 110, 1.9), look(10, 119, 3.0), look(10, 130, 3.0)],
    ids=["the reward fell too", "a fall within the tolerance", "both rose"],
)
def test_nothing_else_ends_it(last: Look) -> None:
    assert gamed([look(0, 100, 1.0), look(5, 120, 2.0), last], 0.02) is None


def test_greedy_answers_tell_of_a_fall_that_sampled_ones_do_not_show() -> None:
    found = []
    for greedy, reward in ((90, 2.0), (90, 0.5), (119, 2.0)):
        before, last = look(0, 100, 1.0), look(5, 100, 1.5)
        told = [replace(before, greedy=look(0, 120, 1.0).held_out, greedy_reward=[1.0] * 200)]
        told.append(replace(last, greedy=look(5, greedy, 1.0).held_out, greedy_reward=[reward] * 200))
        found.append(gamed(told, 0.02))
        assert best_of(told).step == 0
    assert found[0] is not None
    assert "reward of greedy held-out answers rose from 1.000 to 2.000" in found[0]
    assert "fell from 0.600 to 0.450" in found[0]
    assert found[1:] == [None, None]


def both(step: int, sampled: int, greedy: list[int], reward: float) -> Look:
    """The first `sampled` of 200 sampled answers are right, and the greedy answers to these prompts."""
    return replace(look(step, sampled, reward), greedy=[float(i in greedy) for i in range(200)])


@pytest.mark.parametrize(
    ("sampled", "greedy", "ends"),
    [
        (100, [*range(5, 100), 150], True),  # 5 lost, 1 won: p = 0.11
        (103, [*range(5, 100), 150], True),
        (104, [*range(5, 100), 150], False),
        (110, [*range(5, 100), 150], False),
        (110, list(range(7, 100)), True),
        (100, [*range(8, 100), *range(150, 154)], True),  # 8 and 4: 0.19
        (100, [*range(9, 100), *range(150, 155)], False),  # 9 and 5: 0.21
        (100, [*range(4, 100), 150], False),
    ],
    ids=[
        "doubt",
        "little better",
        "as much better",
        "better",
        "beyond chance",
        "just enough",
        "too little",
        "too small",
    ],
)
def test_a_fall_of_greedy_answers_needs_less_proof_where_nothing_speaks_against_it(
    sampled: int, greedy: list[int], ends: bool
) -> None:
    """That sampled answers have gained as much would."""
    found = gamed([both(0, 100, list(range(100)), 1.0), both(1, sampled, greedy, 2.0)], 0.02)
    assert (found is not None) == ends


@pytest.mark.parametrize(("sampled", "ends"), [(100, True), (110, False)])
def test_a_fall_of_greedy_answers_that_is_seen_twice_is_proof_where_nothing_speaks_against_it(
    sampled: int, ends: bool
) -> None:
    fallen = [*range(9, 100), *range(150, 155)]
    looks = [both(0, 100, list(range(100)), 1.0), both(1, 100, fallen, 2.0), both(2, sampled, fallen, 2.0)]
    assert gamed(looks[:2], 0.02) is None
    assert (gamed(looks, 0.02) is not None) == ends
    assert gamed([looks[0], both(1, 100, list(range(100)), 2.0), looks[2]], 0.02) is None


def test_sampled_answers_may_fall_a_little_while_greedy_ones_are_better_than_ever() -> None:
    """A policy that is surer of its best answers; what is kept is better."""
    found = []
    for sampled, greedy in ((95, 110), (95, 100), (91, 110)):
        looks = [both(0, 100, list(range(100)), 1.0), both(1, sampled, list(range(greedy)), 2.0)]
        found.append(gamed(looks, 0.02) is not None)
    assert found == [False, True, True]


def test_a_reward_that_rose_by_chance_has_not_risen() -> None:
    before, last = look(0, 100, 1.0), look(1, 80, 1.0)
    rng = np.random.default_rng(0)
    last.reward[:] = [1.0 + x for x in rng.permutation(np.linspace(-1, 1.02, 200))]
    assert last.mean_reward > before.mean_reward
    assert gamed([before, last], 0.02) is None
    last.reward[:] = [1.0 + x for x in rng.permutation(np.linspace(-1, 1.5, 200))]
    assert gamed([before, last], 0.02) is not None


def test_prompts_without_a_score_are_no_part_of_it() -> None:
    best, last = look(0, 100, 1.0), look(5, 100, 2.0)
    last.held_out[:30] = [None] * 30
    assert gamed([best, last], 0.02) is None


def test_where_reward_and_judge_are_one_it_never_fires() -> None:
    rng = np.random.default_rng(1)
    looks = []
    for step in range(50):
        scores: list[float | None] = [float(x) for x in rng.random(100) < 0.5]
        looks.append(Look(step, scores, scores))
        assert gamed(looks, 0.01) is None


def test_the_numbers_of_a_rollout() -> None:
    rows = gather([TrainingRow([7, 8, 9, 9][: k + 2], [False, *([True] * (k + 1))]) for k in (0, 1, 2, 0)])
    experience = Experience(
        rows,
        {"old": torch.full((7,), -1.0), "reference": torch.full((7,), -1.5)},
        {
            "scores": torch.tensor([1.0, 2.0, 3.0, 1.0]),
            "groups": torch.tensor([0, 0, 1, 2]),
            "lengths": torch.tensor([1, 2, 3, 1]),
            "ended": torch.tensor([True, True, False, True]),
        },
    )
    worth = Worth([1.0, 2.0, 3.0, 1.0, None], {"a": [1, 1, 1, 1, None], "b": [0, 1, 2, 0, 5]}, Counter(), [0.5] * 5)
    found = of_rollout(experience, worth, 0.1, torch.full((7,), -1.2))
    assert found["reward"] == 1.75
    assert (found["reward/a"], found["reward/b"]) == (1, 1.6)
    assert found["failed"] == 1
    assert found["length_reward"] == pytest.approx(1)
    assert found["truncated"] == 0.25
    assert found["undecided"] == 0.5
    assert found["kl"] == pytest.approx(0.5 * 7 / 4)
    assert found["entropy"] == 1
    assert found["sampler_ratio"] == pytest.approx(np.exp(0.2))
    assert found["disagreement"] == 0.5


def test_a_run_that_is_gamed_ends_and_keeps_the_weights_of_before(tmp_path: Path) -> None:
    """The reward is vowels; the judge wants none of them."""
    judge = {"kind": "python", "path": str(Path(__file__).parents[2] / "reward_functions.py"), "function": "consonants"}
    given = POLICIES["grpo"] | {"held_out": [judge], "kl": 0, "answers": 8, "prompts": 12}
    task = job(tmp_path, given, "lora", {"epochs": 60, "learning_rate": 3e-3, "validate_every": 1})
    log = run(task)
    stopped = seen(log, events.Stopped)
    assert len(stopped) == 1
    assert "the reward is being gamed" in stopped[0].reason
    looks = seen(log, events.Validated)
    best = max(looks, key=lambda v: (v.metrics["greedy"], -v.step))
    import json

    report = json.loads((task.out / "rollouts.json").read_text())
    assert report["gamed"] == stopped[0].reason
    example = report["examples"][0]
    assert example["best"]["step"] == best.step
    assert example["last"]["step"] == stopped[0].step
    assert {"answer", "held_out", "reward"} <= example["before"].keys()
    assert json.loads((task.out / "training.json").read_text())["best_step"] == best.step
