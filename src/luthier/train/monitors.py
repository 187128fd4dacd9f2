"""What shows that a reward is being gamed, and the rule that ends a run for it.

A rollout's own numbers (`of_rollout`) tell how the policy moves; none of them tells whether it got better. That is for
the held-out judge alone: at every validation it scores answers to the same held-out prompts, and where the reward of
these answers has risen while their held-out score has fallen, the reward is being gamed (Gao et al. 2023,
arXiv:2210.10760, figure 1).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from luthier.evaluate.metrics import ALPHA, paired
from luthier.evaluate.resample import permutation
from luthier.train.experience import Experience
from luthier.train.objectives.policy import answer_kl
from luthier.train.reinforce import kl
from luthier.train.rewards import Worth
from luthier.types import Json

SLACK = 1e-9
"""A fall of exactly the tolerance is one, whatever rounding makes of it."""
DOUBT = 0.2
"""Most that a fall of greedy answers may be owed to chance, where nothing speaks against it."""
SHOWN = 6
"""Held-out answers that a look keeps for people to read."""


Marks = list[float | None]
"""A number for every answer, None where there is none."""


@dataclass(frozen=True, slots=True)
class Look:
    """One validation: the judge's score and the reward of each held-out answer (None: it failed), and texts of some.

    These answers were sampled; `estimate` and `reward_estimate` are what they and those of earlier looks say together
    of each prompt (`held_out.py`), the scores themselves when not given. `greedy` and `greedy_reward` are those of
    greedy answers, which is what an evaluation asks for; those of the sampled ones when not given.
    """

    step: int
    held_out: Marks
    reward: Marks
    answers: list[str] = field(default_factory=list)
    estimate: Marks = field(default_factory=list)
    reward_estimate: Marks = field(default_factory=list)
    greedy: Marks = field(default_factory=list)
    greedy_reward: Marks = field(default_factory=list)

    @property
    def best_known(self) -> tuple[Marks, Marks]:
        """Score and reward of each prompt, from as many answers as there are."""
        return self.estimate or self.held_out, self.reward_estimate or self.reward

    @property
    def mean(self) -> float:
        """The held-out score."""
        return mean_of(self.best_known[0])

    @property
    def greedy_mean(self) -> float:
        """The held-out score of greedy answers."""
        return mean_of(_greedy(self)[0])

    @property
    def mean_reward(self) -> float:
        """The reward of held-out answers."""
        return mean_of(self.best_known[1])

    def to_json(self) -> Json:
        """The look as one JSON object."""
        return asdict(self)


def gamed(looks: Sequence[Look], tolerance: float) -> str | None:
    """Why the last look says that the reward is being gamed, or None.

    Since the best look the reward has risen beyond chance, and the held-out score, of sampled answers or of greedy
    ones, has fallen by the tolerance or more. What proves the fall is told by `_drawn_worse` and `_kept_worse`.
    """
    if len(looks) < 2:
        return None
    last = looks[-1]
    for kind, scores, proved in (
        (" of held-out answers", _sampled, _drawn_worse),
        (" of greedy held-out answers", _greedy, _kept_worse),
    ):
        best = _highest(looks[:-1], scores)
        if _fallen(best, last, tolerance, scores) and proved(looks, best, tolerance):
            (held, rewards), (fell, rose) = map(_means, (scores(best), scores(last)))
            return (
                f"the reward{kind} rose from {rewards:.3f} to {rose:.3f} while their held-out score fell from "
                f"{held:.3f} to {fell:.3f} since update {best.step}: the reward is being gamed"
            )
    return None


def _drawn_worse(looks: Sequence[Look], best: Look, tolerance: float) -> bool:
    """Whether the fall of sampled answers is proved: it is beyond chance, or seen for the second time in a row.

    While greedy answers, which are what is kept, are better than they were, it has to be twice the tolerance.
    """
    last = looks[-1]
    if last.greedy_mean > best.greedy_mean and not _fallen(best, last, 2 * tolerance, _sampled):
        return False
    return _again(looks, best, tolerance, _sampled) or _chance(best, last, _sampled) < ALPHA


def _kept_worse(looks: Sequence[Look], best: Look, tolerance: float) -> bool:
    """Whether the fall of greedy answers is proved: it is beyond chance.

    Where sampled answers have not gained as much, it is enough that it is seen for the second time in a row, or less
    likely than `DOUBT` by chance: greedy answers turn over many at once, so that there is no time to wait for more, and
    a policy of which sampled answers say the opposite is spared.
    """
    last = looks[-1]
    lost = best.greedy_mean - last.greedy_mean
    if last.mean - best.mean >= lost:
        return _chance(best, last, _greedy) < ALPHA
    return _chance(best, last, _greedy) < DOUBT or _again(looks, best, tolerance, _greedy)


def _again(looks: Sequence[Look], best: Look, tolerance: float, scores: "Scores") -> bool:
    """Whether the look before the last one had fallen, too."""
    return looks[-2].step > best.step and _fallen(best, looks[-2], tolerance, scores)


def best_of(looks: Sequence[Look]) -> Look:
    """The look whose weights are kept: the best greedy answers, which is what is released; the earliest of several."""
    return _highest(looks, _greedy)


def falls(looks: Sequence[Look], last: Look, tolerance: float) -> bool:
    """Whether the score of sampled answers is as far below its best as the tolerance while the reward rose."""
    return _fallen(_highest(looks, _sampled), last, tolerance, _sampled)


Scores = Callable[[Look], tuple[Marks, Marks]]
"""A look's scores and rewards, of sampled or of greedy answers."""


def _means(scores: tuple[Marks, Marks]) -> tuple[float, float]:
    return mean_of(scores[0]), mean_of(scores[1])


def _sampled(look: Look) -> tuple[Marks, Marks]:
    return look.best_known


def _greedy(look: Look) -> tuple[Marks, Marks]:
    return look.greedy or look.held_out, look.greedy_reward or look.reward


def _highest(looks: Sequence[Look], scores: Scores) -> Look:
    return max(looks, key=lambda look: (mean_of(scores(look)[0]), -look.step))


def _fallen(best: Look, last: Look, tolerance: float, scores: Scores) -> bool:
    """Whether the score fell by the tolerance or more while the reward rose beyond chance."""
    gaps = [a - b for b, a in _both(best, last, scores)]
    if not gaps or sum(gaps) / len(gaps) > SLACK - tolerance:
        return False
    own = mean_of(scores(last)[1]) > mean_of(scores(best)[1])
    return own and any(_rose(kind(best)[1], kind(last)[1]) for kind in (scores, _sampled))


def _rose(before: Marks, after: Marks) -> bool:
    """Whether the reward of the same prompts rose beyond chance."""
    gaps = [a - b for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    return permutation(gaps)[0] < ALPHA


def _chance(best: Look, last: Look, scores: Scores) -> float:
    """How likely chance alone makes the score fall so far, on the same prompts."""
    judged = _both(best, last, scores)
    return paired([b for b, _ in judged], [a for _, a in judged]).p_worse


def _both(best: Look, last: Look, scores: Scores) -> list[tuple[float, float]]:
    pairs = zip(scores(best)[0], scores(last)[0], strict=True)
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
        "curve": [
            {"step": k.step, "held_out": k.mean, "greedy": k.greedy_mean, "reward": k.mean_reward} for k in looks
        ],
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
