"""The held-out answers of a run: how good they are, look by look, and when the next look is due.

New answers say how good the policy is only as well as so many draws can. How it changed is known better: the answers of
the last look are weighed by how much likelier the policy has come to find them, w = p_now / p_then (self-normalised
importance sampling; Owen 2013, Monte Carlo, chapter 9). The same answers stand on both sides, so that what differs is
the policy alone, and nothing has to be sampled: one forward pass tells after every rollout. The estimate of a look is

    e = e_before + (w / mean(w) - 1) (s - mean(s)),   moved towards the new answers' scores by the share `new`

for each prompt, with the scores s of the last look's answers. `new` is what the weights have worn out, that is
1 - 1 / mean(w^2) at a mean of 1, and a tenth at least: a policy that has moved far is known by its new answers alone.

The greedy answers of the last look are passed over, too: one whose tokens all had better than even odds, and of which
one has fallen below, is greedy no longer. So right answers that are gone are counted, not what came in their place.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier.train.experience import Experience
from luthier.train.monitors import SLACK, Look, best_of, falls
from luthier.train.source import Tensors

LEAST_NEW = 0.1
"""Least share of the new answers' scores in an estimate, so that errors of the weights do not add up for ever."""
WORN = 0.1
"""A look is due when so much of the last one's answers is worn out."""
SPENT = 0.5
"""Answers of looks that are due for that reason, to those that are learned from."""
EVEN = math.log(0.5)
LOOKS = "looks/"
"""What the names of its tensors in a checkpoint begin with."""
SAMPLED, GREEDY = f"{LOOKS}sampled/", f"{LOOKS}greedy/"
Scores = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Change:
    """What the policy has made of the last look's answers by update `step`.

    `worn` is the share of them that says nothing any more, `held_out` and `reward` how each prompt's score changed.
    """

    step: int
    worn: float
    held_out: list[float]
    reward: list[float]


def change(step: int, moved: torch.Tensor, held_out: Scores, reward: Scores) -> Change:
    """The change by importance weights.

    Args:
        step: updates so far.
        moved: [answers] log-probability of each answer now less that when it was drawn.
        held_out: their scores by the judge.
        reward: and by the rewards.
    """
    weights = torch.softmax(moved.double(), 0) * len(moved)
    worn = 1 - 1 / weights.square().mean().item()
    return Change(step, worn, _moved(weights, held_out), _moved(weights, reward))


def _moved(weights: torch.Tensor, scores: Scores) -> list[float]:
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [
        0.0 if score is None else (weight - 1) * (score - mean)
        for weight, score in zip(weights.tolist(), scores, strict=True)
    ]


class HeldOut:
    """All looks of a run, and the answers of the last one.

    `logprobs` gives, for rows of answers, the log-probabilities [labels] of their tokens under the policy as it is now.
    """

    def __init__(self, tolerance: float, rollout: int, prompts: int, logprobs: Callable[[Experience], torch.Tensor]):
        self.tolerance, self.logprobs = tolerance, logprobs
        self.apart = math.ceil(prompts / (SPENT * rollout))
        """Rollouts between looks that are due for worn answers: `rollout` answers each, `prompts` of a look."""
        self.looks: list[Look] = []
        self.kept: Experience | None = None
        self.greedy: Experience | None = None
        self.change: Change | None = None
        self.rollouts = 0

    def due(self, step: int) -> bool:
        """Whether to look now, after the last update on a rollout: the last look's answers are worn out, or worse."""
        if self.kept is None:
            return False
        self.rollouts += 1
        found = self._changed(step)
        if found.worn > WORN and self.rollouts >= self.apart:
            return True
        if self._below() + self._gone() >= self.tolerance - SLACK:
            return True
        guess = Look(step, [], [], [], *self._estimates(found, None, None))
        return falls(self.looks, guess, self.tolerance)

    def add(
        self,
        step: int,
        answers: tuple[Experience, Experience],
        marks: tuple[Scores, Scores, Scores, Scores],
        texts: Sequence[str],
    ) -> Look:
        """A look.

        Args:
            step: updates so far.
            answers: those to the held-out prompts, sampled and greedy, as rows.
            marks: their scores and rewards, and those of greedy answers.
            texts: some of the sampled answers.
        """
        held_out, reward, *greedy = map(list, marks)
        estimates = [held_out, reward]
        if self.looks and self.kept is not None:
            estimates = self._estimates(self._changed(step), held_out, reward)
        look = Look(step, held_out, reward, list(texts), *estimates, *greedy)
        self.looks.append(look)
        self.kept, self.greedy = answers
        self.kept.facts["logprobs"] = _sums(self.logprobs(self.kept), self.kept)
        self.greedy.facts["least"] = _least(self.logprobs(self.greedy), self.greedy)
        self.change, self.rollouts = None, 0
        return look

    def _below(self) -> float:
        """How far the greedy answers of the last look were below the best ones."""
        return max(0.0, best_of(self.looks).greedy_mean - self.looks[-1].greedy_mean)

    def _gone(self) -> float:
        """The score, above the lowest, of greedy answers of the last look that are greedy no longer, a prompt."""
        assert self.greedy is not None
        now = _least(self.logprobs(self.greedy), self.greedy)
        gone = (self.greedy.facts["least"] > EVEN) & (now < EVEN)
        scores = self.looks[-1].greedy
        lowest = min((score for score in scores if score is not None and score < 0), default=0.0)
        lost = 0.0
        for score, is_gone in zip(scores, gone.tolist(), strict=True):
            lost += score - lowest if is_gone and score is not None else 0.0
        return lost / len(scores)

    def _changed(self, step: int) -> Change:
        """What has changed since the last look; computed once for every update."""
        assert self.kept is not None
        if self.change is None or self.change.step != step:
            last, moved = self.looks[-1], _sums(self.logprobs(self.kept), self.kept) - self.kept.facts["logprobs"]
            self.change = change(step, moved, last.held_out, last.reward)
        return self.change

    def _estimates(self, found: Change, held_out: Scores | None, reward: Scores | None) -> list[list[float | None]]:
        share = max(LEAST_NEW, found.worn)
        score, worth = self.looks[-1].best_known
        return [
            [_towards(e, moved, None if new is None else new[i], share) for i, (e, moved) in enumerate(pairs)]
            for pairs, new in (
                (zip(score, found.held_out, strict=True), held_out),
                (zip(worth, found.reward, strict=True), reward),
            )
        ]

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What a checkpoint has to hold: tensors, and JSON."""
        kept: dict[str, torch.Tensor] = {}
        for name, part in ((SAMPLED, self.kept), (GREEDY, self.greedy)):
            kept |= {} if part is None else {f"{name}{key}": tensor for key, tensor in part.state().items()}
        return kept, {"looks": [look.to_json() for look in self.looks], "rollouts": self.rollouts}

    def restore(self, tensors: Tensors, facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        found = []
        for name in (SAMPLED, GREEDY):
            part = {key.removeprefix(name): tensor for key, tensor in tensors.items() if key.startswith(name)}
            found.append(Experience.read(part) if part else None)
        (self.kept, self.greedy), self.change = found, None
        self.looks, self.rollouts = [Look(**look) for look in facts["looks"]], facts["rollouts"]


def _towards(estimate: float | None, moved: float, new: float | None, share: float) -> float | None:
    if estimate is None:
        return new
    expected = estimate + moved
    return expected if new is None else expected + share * (new - expected)


def _owner(answers: Experience) -> torch.Tensor:
    return torch.arange(len(answers.rows)).repeat_interleave(answers.counts)


def _sums(logprobs: torch.Tensor, answers: Experience) -> torch.Tensor:
    """The log-probability [answers] of each answer."""
    return torch.zeros(len(answers.rows), dtype=torch.float64).index_add(0, _owner(answers), logprobs.double())


def _least(logprobs: torch.Tensor, answers: Experience) -> torch.Tensor:
    """The log-probability [answers] of each answer's least likely token."""
    found = torch.zeros(len(answers.rows), dtype=torch.float64)
    return found.scatter_reduce(0, _owner(answers), logprobs.double(), "amin")
