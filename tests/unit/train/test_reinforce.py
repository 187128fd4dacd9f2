"""Each formula of reinforcement learning against brute force in float64, and against verl's where it is installed."""

import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.train import reinforce
from luthier.train.reinforce import (
    adapted,
    beyond,
    gae,
    group_advantages,
    kl,
    masked_mean,
    ppo_loss,
    token_rewards,
    truncated_weights,
    value_loss,
    whiten,
    without_end,
)

Tensor = torch.Tensor


def answers(seed: int, rows: int = 5, time: int = 7) -> tuple[Tensor, Tensor]:
    """Random numbers [rows, time] in float64, and the mask of answers of random lengths."""
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, time + 1, (rows,), generator=source)
    lengths[0] = time
    values = torch.randn(rows, time, generator=source, dtype=torch.float64)
    return values, torch.arange(time)[None] < lengths[:, None]


def brute_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """The double sum of the paper's equation 16, answer by answer."""
    found = torch.zeros_like(values)
    for row, count in enumerate(mask.sum(1).tolist()):
        v = [*values[row, :count].tolist(), 0.0]
        deltas = [rewards[row, t].item() + gamma * v[t + 1] - v[t] for t in range(count)]
        for t in range(count):
            found[row, t] = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, count))
    return found


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_double_sum(seed: int, gamma: float, lam: float) -> None:
    rewards, mask = answers(seed)
    values, _ = answers(seed + 1)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    expected = brute_gae(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, (expected + values) * mask)


def test_with_gamma_and_lambda_of_one_an_advantage_is_the_reward_to_go_less_the_value() -> None:
    rewards, mask = answers(3)
    values, _ = answers(4)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(gae(rewards, values, mask, gamma=1.0, lam=1.0)[0], (to_go - values) * mask)


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_padding_changes_nothing(seed: int, more: int) -> None:
    rewards, mask = answers(seed)
    values, _ = answers(seed + 1)
    junk = torch.full((len(mask), more), 1e6, dtype=torch.float64)
    wide = [torch.cat([x, junk], 1) for x in (rewards, values)]
    wide_mask = torch.cat([mask, torch.zeros(len(mask), more, dtype=torch.bool)], 1)
    narrow = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    for found, expected in zip(gae(*wide, wide_mask, gamma=0.9, lam=0.8), narrow, strict=True):
        torch.testing.assert_close(found[:, : mask.shape[1]], expected)
        assert not found[:, mask.shape[1] :].any()
    torch.testing.assert_close(whiten(wide[0], wide_mask)[:, : mask.shape[1]], whiten(rewards, mask))
    assert masked_mean(wide[0], wide_mask) == pytest.approx(masked_mean(rewards, mask).item())
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(whiten(rewards[order], mask[order]), whiten(rewards, mask)[order])
    scores = rewards[:, 0]
    found = token_rewards(scores, wide[1], wide_mask)
    torch.testing.assert_close(found[:, : mask.shape[1]], token_rewards(scores, values, mask))


def test_whitened_values_have_mean_zero_and_spread_one_over_the_mask_alone() -> None:
    values, mask = answers(5)
    kept = whiten(values, mask)[mask]
    assert kept.mean().item() == pytest.approx(0, abs=1e-9)
    assert kept.std().item() == pytest.approx(1, abs=1e-5)
    shifted = whiten(values, mask, centre=False)
    assert shifted[mask].mean().item() == pytest.approx(values[mask].mean().item())
    assert not shifted[~mask].any()


def test_the_score_stands_at_the_last_real_token_and_nowhere_else() -> None:
    _, mask = answers(6)
    scores = torch.arange(1.0, 6.0, dtype=torch.float64)
    found = token_rewards(scores, torch.zeros(mask.shape, dtype=torch.float64), mask)
    for row, count in enumerate(mask.sum(1).tolist()):
        assert found[row].tolist() == [0.0] * (count - 1) + [row + 1.0] + [0.0] * (mask.shape[1] - count)
    penalties = torch.full(mask.shape, 0.5, dtype=torch.float64)
    assert torch.equal(token_rewards(scores, penalties, mask), found - 0.5 * mask)


def distributions() -> tuple[Tensor, Tensor, float]:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    q = torch.tensor([0.2, 0.3, 0.4, 0.1], dtype=torch.float64)
    return p, q, float((p * (p / q).log()).sum())


def test_k1_and_k3_are_without_bias_and_k3_is_never_negative() -> None:
    p, q, exact = distributions()
    for estimator in ("k1", "k3"):
        assert (p * kl(p.log(), q.log(), estimator)).sum().item() == pytest.approx(exact)  # type: ignore[arg-type]
    assert (kl(p.log(), q.log(), "k3") >= 0).all()
    assert (kl(p.log(), q.log(), "k1") < 0).any()
    assert torch.equal(kl(p.log(), q.log(), "k2"), 0.5 * (p.log() - q.log()).square())


def test_a_token_likelier_than_under_the_reference_is_rewarded_less() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    near, far = (
        token_rewards(torch.ones(1), 0.1 * kl(torch.tensor([[x]]), torch.tensor([[-1.0]])), mask) for x in (-1.0, -0.5)
    )
    assert near.item() == 1
    assert far.item() == pytest.approx(0.95)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 1.5])
def test_the_pessimistic_branch_is_taken_and_has_no_gradient_beyond_the_clip(advantage: float, ratio: float) -> None:
    def loss(logprob: Tensor) -> Tensor:
        old, gain = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
        return ppo_loss(logprob, old, gain, low=0.2, high=0.3)[0].sum()

    at = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    clipped = min(max(ratio, 0.8), 1.3)
    assert loss(at).item() == pytest.approx(max(-advantage * ratio, -advantage * clipped))
    loss(at).backward()
    step = 1e-6
    numeric = (loss(at.detach() + step) - loss(at.detach() - step)).item() / (2 * step)
    assert at.grad is not None
    assert at.grad.item() == pytest.approx(numeric, abs=1e-6)
    beyond_clip = (advantage > 0 and ratio > 1.3) or (advantage < 0 and ratio < 0.8)
    assert (at.grad.item() == 0) == beyond_clip


@pytest.mark.parametrize("value", [0.2, 0.9, 1.4, 3.0])
def test_the_worse_of_both_value_errors_counts(value: float) -> None:
    old, returns = torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    at = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    loss, clipped = value_loss(at, old, returns, clip=0.2)
    near = min(max(value, 0.8), 1.2)
    assert loss.item() == pytest.approx(0.5 * max((value - 2) ** 2, (near - 2) ** 2))
    loss.sum().backward()
    assert at.grad is not None
    if value == 1.4:  # it has moved further towards the return than it may
        assert at.grad.item() == 0
        assert clipped.item() == 1
    assert value_loss(at, old, returns, clip=None)[0].item() == pytest.approx(0.5 * (value - 2) ** 2)


def test_group_advantages_of_the_published_example() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([7, 7, 7, 7])
    found, tells = group_advantages(rewards, groups)
    assert found.tolist() == pytest.approx([0.8660, -0.8660, -0.8660, 0.8660], abs=1e-4)
    assert tells.all()
    assert group_advantages(rewards, groups, scale=False)[0].tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5])
    out, _ = group_advantages(rewards, groups, baseline="others", scale=False)
    assert out.tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-3, 3)), min_size=1, max_size=20))
def test_each_group_is_on_its_own_and_equal_rewards_say_nothing(drawn: list[tuple[int, float]]) -> None:
    groups = torch.tensor([group for group, _ in drawn])
    rewards = torch.tensor([reward for _, reward in drawn], dtype=torch.float64)
    out, tells = group_advantages(rewards, groups, baseline="others", scale=False)
    mean, _ = group_advantages(rewards, groups, scale=False)
    for k in range(len(drawn)):
        own = rewards[groups == groups[k]]
        others = rewards[[j for j in range(len(drawn)) if j != k and groups[j] == groups[k]]]
        assert tells[k].item() == (len(others) > 0 and own.min() < own.max())
        if tells[k]:
            assert out[k].item() == pytest.approx((rewards[k] - others.mean()).item(), abs=1e-9)
            assert mean[k].item() == pytest.approx((rewards[k] - own.mean()).item(), abs=1e-9)
        else:
            assert out[k] == mean[k] == 0


def test_penalties_for_answers_without_an_end_and_too_long_ones() -> None:
    assert without_end(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), 0.4).tolist() == pytest.approx([1.0, 0.6])
    assert beyond(torch.tensor([5, 10, 15, 20, 30]), 20, 10).tolist() == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_the_kl_coefficient_goes_where_the_kl_is_wanted() -> None:
    assert adapted(0.1, found=6.0, target=6.0, answers=64, horizon=1000) == 0.1
    assert adapted(0.1, found=60.0, target=6.0, answers=100, horizon=1000) == pytest.approx(0.1 * 1.02)
    assert adapted(0.1, found=0.0, target=6.0, answers=100, horizon=1000) == pytest.approx(0.1 * 0.98)
    assert adapted(0.1, found=6.6, target=6.0, answers=100, horizon=1000) == pytest.approx(0.1 * 1.01)


def test_weights_of_another_sampler_are_cut_above() -> None:
    found = truncated_weights(torch.tensor([0.0, 0.0, 3.0]), torch.tensor([0.0, 1.0, 0.0]), 2.0)
    assert found.tolist() == pytest.approx([1.0, math.exp(-1), 2.0])


@pytest.fixture(scope="module")
def verl() -> Any:
    """verl's formulas; its package can be installed without what it trains with."""
    try:
        from verl.trainer.ppo import core_algos
    except ImportError as error:
        pytest.skip(f"verl's formulas cannot be imported ({error}): pip install --no-deps verl, and what it names")
    finally:
        sys.modules.pop("torch.utils.tensorboard", None)
    return core_algos


@pytest.mark.parametrize("seed", range(4))
def test_verl_has_the_same_numbers(seed: int, verl: Any) -> None:
    rewards, mask = (x.float() if x.is_floating_point() else x for x in answers(seed, 6, 9))
    values, olds = (answers(seed + k, 6, 9)[0].float() for k in (1, 2))
    bits = mask.float()
    advantages, returns = gae(rewards, values, mask, gamma=0.99, lam=0.9)
    theirs, their_returns = verl.compute_gae_advantage_return(rewards * bits, values * bits, bits, 0.99, 0.9)
    torch.testing.assert_close(whiten(advantages, mask), theirs * bits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(returns, their_returns * bits, rtol=1e-5, atol=1e-5)
    for estimator, name in (("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl")):
        near, other = values * 0.1, olds * 0.1  # theirs clamps what is far out
        torch.testing.assert_close(kl(near, other, estimator), verl.kl_penalty_forward(near, other, name))  # type: ignore[arg-type]
    loss, clipped = value_loss(values, olds, rewards, clip=0.2)
    their_loss, their_share = verl.compute_value_loss(values, rewards, olds, bits, 0.2)
    assert masked_mean(loss, mask).item() == pytest.approx(their_loss.item(), rel=1e-5)
    assert masked_mean(clipped, mask).item() == pytest.approx(their_share.item(), rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_verl_has_the_same_group_advantages(seed: int, verl: Any) -> None:
    rewards, mask = (x.float() if x.is_floating_point() else x for x in answers(seed, 8, 5))
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    bits, scores = mask.float(), (rewards * mask).sum(1)
    for scale in (True, False):
        theirs, _ = verl.compute_grpo_outcome_advantage(
            rewards * bits, bits, groups.numpy(), norm_adv_by_std_in_grpo=scale
        )
        found = group_advantages(scores, groups, scale=scale)[0]
        torch.testing.assert_close(found[:, None] * bits, theirs, rtol=1e-5, atol=1e-5)
    theirs, _ = verl.compute_rloo_outcome_advantage(rewards * bits, bits, groups.numpy())
    out = group_advantages(scores, groups, baseline="others", scale=False)[0]
    torch.testing.assert_close(out[:, None] * bits, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_verl_has_the_same_policy_loss(seed: int, verl: Any) -> None:
    from omegaconf import OmegaConf

    advantages, mask = (x.float() if x.is_floating_point() else x for x in answers(seed, 6, 9))
    old, bits = answers(seed + 1, 6, 9)[0].float(), mask.float()
    new = old + 0.3 * answers(seed + 2, 6, 9)[0].float()
    loss, _, clipped = ppo_loss(new, old, advantages, low=0.2, high=0.28)
    config = OmegaConf.create({"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 1e9})
    config.global_batch_info = {}
    theirs, metrics = verl.compute_policy_loss_vanilla(old, new, advantages, bits, "token-mean", config)
    assert masked_mean(loss, mask).item() == pytest.approx(theirs.item(), rel=1e-5)
    assert masked_mean(clipped, mask).item() == pytest.approx(metrics["actor/pg_clipfrac"], rel=1e-5)


def test_all_functions_are_documented_in_the_table() -> None:
    assert reinforce.__doc__ is not None
    for name in ("gae", "kl", "ppo_loss", "value_loss", "adapted", "truncated_weights"):
        assert name in reinforce.__doc__
