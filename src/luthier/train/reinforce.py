"""The formulas of reinforcement learning from rewards, as pure functions.

Shapes: `[rows, time]` are answers padded on the right, with `mask` True on their tokens; `[rows]` one number an answer.
Every mean, spread and penalty counts masked tokens alone, so padding changes nothing.

| function | formula | source |
| --- | --- | --- |
| gae | A_t = sum_k (gamma lambda)^k delta_(t+k), delta_t = r_t + gamma V_(t+1) - V_t | Schulman et al. 2016, eq. 16 |
| kl, k1 to k3 | d; d^2 / 2; exp(-d) - 1 + d; d = log p - log p0, tokens drawn from p | Schulman 2020 (blog) |
| ppo_loss | max(-A r, -A clip(r, 1 - e, 1 + e)), r = p / p_old | Schulman et al. 2017, eq. 7 |
| value_loss | max((V - R)^2, (clip(V, V_old +- e) - R)^2) / 2 | Schulman's code; Huang et al. 2022, detail 9 |
| group, scaled | (r - mean) / (std + 1e-6), of the answers to one prompt | Shao et al. 2024 (GRPO), eq. 3 |
| group, not scaled | r - mean | Liu et al. 2025 (Dr. GRPO), section 3.2 |
| leave one out | r - mean of the others | Kool et al. 2019; Ahmadian et al. 2024 (RLOO), eq. 8 |
| adapted | beta (1 + clip(KL / target - 1, +-0.2) n / horizon) | Ziegler et al. 2019, section 2.2 |
| truncated_weights | min(p_train / p_sampler, C) | Ionides 2008, truncated importance sampling |
"""

from typing import Literal

import torch

Tensor = torch.Tensor
Estimator = Literal["k1", "k2", "k3"]
EPSILON = 1e-6
"""Added to a spread before dividing by it."""
ADAPTION = 0.2
"""Largest relative error that the adaptive control reacts to."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean [] over the masked places; 0 where there is none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, centre: bool = True) -> Tensor:
    """Values of the shape of `mask`, scaled to spread 1 and, with `centre`, to mean 0 over the masked places.

    The spread is that of a sample (n - 1). What is not masked becomes 0.
    """
    count, mean = mask.sum(), masked_mean(values, mask)
    spread = (((values - mean) * mask).square().sum() / (count - 1).clamp(min=1)).sqrt()
    scaled = (values - mean) / (spread + EPSILON)
    return (scaled if centre else scaled + mean) * mask


def kl(logprobs: Tensor, reference: Tensor, estimator: Estimator = "k1") -> Tensor:
    """An estimate of KL(p || p0) at each token, in nats, where tokens were drawn from p.

    k1 is without bias and may be negative, k3 is without bias and never negative, k2 is biased and of small variance.

    Args:
        logprobs: log p of the drawn tokens, of any shape.
        reference: log p0 of the same tokens.
        estimator: which of the three.
    """
    ahead = logprobs - reference
    if estimator == "k1":
        return ahead
    if estimator == "k2":
        return 0.5 * ahead.square()
    return torch.expm1(-ahead) + ahead


def token_rewards(scores: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """The reward [rows, time] of every token: its (negated) penalty, and at the last real token the score as well.

    Args:
        scores: [rows], of whole answers.
        penalties: [rows, time], to be subtracted, beta KL for example.
        mask: [rows, time]; every row has a token.
    """
    rewards = -penalties * mask
    last = mask.sum(1) - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns [rows, time] of answers that end with their last token.

    Args:
        rewards: [rows, time].
        values: [rows, time], V of the state in which each token was chosen.
        mask: [rows, time]; a row's tokens stand together at its beginning.
        gamma: what a reward one token later is worth.
        lam: 1 trusts the rewards that came, 0 the values.

    Returns:
        Advantages, and returns = advantages + values; both 0 outside the mask.
    """
    rewards, values = rewards * mask, values * mask
    advantage, following = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    found = []
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = (delta + gamma * lam * advantage) * mask[:, t]
        following = values[:, t]
        found.append(advantage)
    advantages = torch.stack(found[::-1], dim=1)
    return advantages, (advantages + values) * mask


def ppo_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, *, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The clipped surrogate of each token, to be minimised; all shapes alike.

    Args:
        logprobs: log p of the tokens under the policy being trained; carries the gradient.
        old: log p under the policy that they were learned with first.
        advantages: of the tokens.
        low: the ratio is clipped below 1 - low,
        high: and above 1 + high.

    Returns:
        The loss of each token, the ratio p / p_old, and 1 where the clipped branch is the larger one.
    """
    ratio = torch.exp(logprobs - old)
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    return torch.maximum(plain, clipped), ratio, (clipped > plain).to(ratio.dtype)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, *, clip: float | None) -> tuple[Tensor, Tensor]:
    """Half the squared error of each value, the worse of clipped and not; all shapes alike.

    Args:
        values: being trained.
        old: when the answers were sampled.
        returns: what the values should have been.
        clip: how far a value may move from the old one and still gain by it; None does not clip.

    Returns:
        The loss of each token, and 1 where the clipped branch is the larger one.
    """
    plain = (values - returns).square()
    if clip is None:
        return 0.5 * plain, torch.zeros_like(plain)
    near = old + (values - old).clamp(-clip, clip)
    clipped = (near - returns).square()
    return 0.5 * torch.maximum(plain, clipped), (clipped > plain).to(plain.dtype)


def group_advantages(
    rewards: Tensor, groups: Tensor, *, baseline: Literal["mean", "others"] = "mean", scale: bool = True
) -> tuple[Tensor, Tensor]:
    """The advantage [rows] of each answer over the other answers to its prompt.

    Args:
        rewards: [rows].
        groups: [rows], the number of each answer's prompt.
        baseline: the mean of the group, or that of the others in it (leave one out).
        scale: divide by the group's spread (n - 1).

    Returns:
        Advantages, and True for rows whose group says something: it has two answers or more, of unequal reward.
        A group that says nothing has the advantage 0.
    """
    where = torch.unique(groups, return_inverse=True)[1]
    size = int(where.max()) + 1 if len(where) else 0
    count = rewards.new_zeros(size).index_add(0, where, torch.ones_like(rewards))[where]
    total = rewards.new_zeros(size).index_add(0, where, rewards)[where]
    lowest = rewards.new_full((size,), torch.inf).scatter_reduce(0, where, rewards, "amin")[where]
    highest = rewards.new_full((size,), -torch.inf).scatter_reduce(0, where, rewards, "amax")[where]
    gap = rewards - total / count
    if scale:
        square = rewards.new_zeros(size).index_add(0, where, gap.square())[where]
        spread = (square / (count - 1).clamp(min=1)).sqrt()
    if baseline == "others":
        gap = rewards - (total - rewards) / (count - 1).clamp(min=1)
    tells = (count > 1) & (highest > lowest)
    return torch.where(tells, gap / (spread + EPSILON) if scale else gap, torch.zeros_like(gap)), tells


def without_end(scores: Tensor, ended: Tensor, penalty: float) -> Tensor:
    """Scores [rows] less the penalty where an answer did not end by itself (`ended` [rows] is False)."""
    return scores - penalty * (~ended).to(scores.dtype)


def beyond(lengths: Tensor, limit: int, room: int) -> Tensor:
    """Soft penalty [rows] for long answers, 0 up to `limit - room` tokens and falling evenly to -1 at `limit`.

    Yu et al. 2025 (DAPO), equation 13.
    """
    return -((lengths - (limit - room)).to(torch.float32) / room).clamp(0, 1)


def adapted(beta: float, found: float, target: float, answers: int, horizon: int) -> float:
    """The KL coefficient after a rollout in which the KL per answer was `found`, in nats."""
    error = max(-ADAPTION, min(ADAPTION, found / target - 1))
    return beta * (1 + error * answers / horizon)


def truncated_weights(training: Tensor, sampler: Tensor, most: float) -> Tensor:
    """Weights of tokens that another program drew: how much likelier they are under the training forward, at most C."""
    return torch.exp(training - sampler).clamp(max=most)
