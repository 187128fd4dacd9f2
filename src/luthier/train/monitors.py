"""What shows that a reward is being gamed, and the rule that ends a run for it.

A rollout's own numbers (`of_rollout`) tell how the policy moves; none of them tells whether it got better. That is for
the held-out judge alone: at every validation it scores answers to the same held-out prompts, and where the reward of
these answers has risen while their held-out score has fallen, the reward is being gamed (Gao et al. 2023,
arXiv:2210.10760, figure 1).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from luthier.evaluate.metrics import ALPHA, paired
from luthier.train.experience import Experience
from luthier.train.objectives.policy import answer_kl
from luthier.train.reinforce import kl
from luthier.train.rewards import Worth
from luthier.types import Json

SHOWN = 6
"""Held-out answers that a look keeps for people to read."""


@dataclass(frozen=True, slots=True)
class Look:
    """One validation: the judge's score and the reward of each held-out answer (None: it failed), and some texts.

    `estimate` and `reward_estimate` are what these answers and those of earlier looks say together of each prompt
    (`held_out.py`); the scores themselves when not given.
    """

    step: int
    held_out: list[float | None]
    reward: list[float | None]
    answers: list[str] = field(default_factory=list)
    estimate: list[float | None] = field(default_factory=list)
    reward_estimate: list[float | None] = field(default_factory=list)

    @property
    def best_known(self) -> tuple[list[float | None], list[float | None]]:
        """Score and reward of each prompt, from as many answers as there are."""
        return self.estimate or self.held_out, self.reward_estimate or self.reward

    @property
    def mean(self) -> float:
        """The held-out score."""
        return mean_of(self.best_known[0])

    @property
    def mean_reward(self) -> float:
        """The reward of held-out answers."""
        return mean_of(self.best_known[1])

    def to_json(self) -> Json:
        """The look as one JSON object."""
        return asdict(self)


def gamed(looks: Sequence[Look], tolerance: float) -> str | None:
    """Why the last look says that the reward is being gamed, or None.

    Since the best look the reward has risen, and the held-out score has fallen by more than the tolerance: either so
    that chance alone would do it less than once in twenty times, on the same prompts, or for the second time in a row.
    """
    if len(looks) < 2:
        return None
    best, last = best_of(looks[:-1]), looks[-1]
    if not fallen(best, last, tolerance):
        return None
    again = looks[-2].step > best.step and fallen(best, looks[-2], tolerance)
    if not (again or _sure(best, last)):
        return None
    return (
        f"the reward rose from {best.mean_reward:.3f} to {last.mean_reward:.3f} while the held-out score fell from "
        f"{best.mean:.3f} to {last.mean:.3f} since update {best.step}: the reward is being gamed"
    )


def best_of(looks: Sequence[Look]) -> Look:
    """The look with the highest held-out score, the earliest of several."""
    return max(looks, key=lambda look: (look.mean, -look.step))


def fallen(best: Look, last: Look, tolerance: float) -> bool:
    """Whether the held-out score fell by more than the tolerance while the reward rose."""
    gaps = [a - b for b, a in _both(best, last)]
    return bool(gaps) and sum(gaps) / len(gaps) < -tolerance and last.mean_reward > best.mean_reward


def _sure(best: Look, last: Look) -> bool:
    """Whether the fall is beyond chance."""
    judged = _both(best, last)
    return paired([b for b, _ in judged], [a for _, a in judged]).p_worse < ALPHA


def _both(best: Look, last: Look) -> list[tuple[float, float]]:
    pairs = zip(best.best_known[0], last.best_known[0], strict=True)
    return [(b, a) for b, a in pairs if b is not None and a is not None]


def of_rollout(experience: Experience, worth: Worth, beta: float, sampled: torch.Tensor) -> dict[str, float]:
    """The numbers of one rollout.

    Args:
        experience: what was kept of it, with the facts `scores`, `groups`, `ended`, `lengths`.
        worth: what the answers were worth, those that failed too.
        beta: coefficient of the KL.
        sampled: [labels] the log-probabilities that the sampler gives.

    Returns:
        | name | what |
        | --- | --- |
        | reward, reward/NAME | mean of the sum and of its parts; reward_spread the standard deviation of the sum |
        | failed | answers without a reward |
        | kl, kl_k3 | KL from the model before training: of an answer (sum of k1), of a token (mean of k3), in nats |
        | entropy | of a token, in nats: minus the mean log-probability of what was drawn |
        | length, length_reward | tokens of an answer, and their correlation with the reward |
        | truncated | share that did not end by itself |
        | undecided | share whose prompt has only answers of equal reward |
        | sampler_ratio, sampler_ratio_max | raw ratio of the training forward's probability to the sampler's |
        | disagreement | mean standard deviation of an ensemble's members over an answer |
    """
    facts, old = experience.facts, experience.labels["old"]
    scores, lengths = facts["scores"], facts["lengths"].float()
    ratio = torch.exp(old - sampled)
    found = {
        "reward": scores.mean().item(),
        "reward_spread": scores.std(correction=0).item(),
        "failed": float(sum(value is None for value in worth.total)),
        "entropy": -old.mean().item(),
        "length": lengths.mean().item(),
        "length_reward": _correlation(lengths, scores),
        "truncated": 1 - facts["ended"].float().mean().item(),
        "undecided": _undecided(scores, facts["groups"]),
        "sampler_ratio": ratio.mean().item(),
        "sampler_ratio_max": ratio.max().item(),
    }
    found |= {f"reward/{name}": mean_of(values) for name, values in worth.parts.items()} if len(worth.parts) > 1 else {}
    if "reference" in experience.labels:
        found["kl"] = answer_kl(experience).mean().item()
        found["kl_k3"] = kl(old, experience.labels["reference"], "k3").mean().item()
        found["beta"] = beta
    if worth.spread:
        found["disagreement"] = mean_of([x if math.isfinite(x) else None for x in worth.spread])
    return found


def _undecided(scores: torch.Tensor, groups: torch.Tensor) -> float:
    where = torch.unique(groups, return_inverse=True)[1]
    size = int(where.max()) + 1
    low = scores.new_full((size,), torch.inf).scatter_reduce(0, where, scores, "amin")
    high = scores.new_full((size,), -torch.inf).scatter_reduce(0, where, scores, "amax")
    return (low == high)[where].float().mean().item()


def _correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Pearson's; 0 where one of both does not vary."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    size = (x.square().sum() * y.square().sum()).sqrt().item()
    return (x * y).sum().item() / size if size > 1e-12 else 0.0


def mean_of(values: Sequence[float | None]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def to_report(looks: Sequence[Look], questions: Sequence[str], stopped: str | None) -> dict[str, Any]:
    """What is kept of a run for its report: the curve of both scores, and answers from before, the best and the end."""
    best, first, last = best_of(looks), looks[0], looks[-1]
    moments = {"before": first, "best": best, "last": last}
    return {
        "gamed": stopped,
        "curve": [{"step": k.step, "held_out": k.mean, "reward": k.mean_reward} for k in looks],
        "examples": [
            {
                "prompt": question,
                **{
                    name: {"step": k.step, "answer": k.answers[i], "held_out": k.held_out[i], "reward": k.reward[i]}
                    for name, k in moments.items()
                },
            }
            for i, question in enumerate(questions[: len(first.answers)])
        ],
    }
