"""What objectives that learn from rewards for the model's own answers have in common."""

from typing import Any

import torch

from luthier.models.batch import Batch
from luthier.models.logprobs import batch_logprobs
from luthier.train.experience import Experience
from luthier.train.objectives.objective import Loss, Objective
from luthier.train.reinforce import kl, ppo_loss

Tensor = torch.Tensor


class PolicyObjective(Objective):
    """A clipped policy loss over the answers of the rollout at hand, summed over tokens; see `reinforce.ppo_loss`.

    Rows of a `group`, all answers to one prompt, stay together; an answer is left out with the others of its group.

    Between rollout and update nothing is looked up again: `prepare` turns what answers are worth into what is learned
    of each of their tokens, and `loss` reads that for the rows of its batch.
    """

    fresh = True
    critic = False
    """Whether the objective learns values of states."""
    weighted = True
    """Whether tokens of another sampler are weighted by truncated ratios."""
    experience: Experience

    @property
    def anchored(self) -> bool:
        """Whether the log-probabilities of the model before training are needed."""
        return bool(self.section.kl)

    @property
    def penalty(self) -> float:
        """The coefficient of the KL as it is now."""
        return float(self.section.kl)

    def prepare(self, experience: Experience) -> None:
        """Add the labels `advantages` and whatever else `loss` reads, from the facts `scores` and `groups`."""
        raise NotImplementedError

    def observe(self, divergence: float, answers: int) -> None:
        """Hear the KL of an answer, in nats, from the model before training, in a rollout of so many answers."""

    def state(self) -> dict[str, Any]:
        """What changes while training, for a checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to it."""

    def units(self, batch: Batch) -> float:
        """Tokens of answers."""
        return len(batch.targets)

    def per_label(self, batch: Batch) -> Tensor | float:
        """[labels] what each label's loss is multiplied with, so that sums over units are the mean that is meant."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss; `ratio` is the mean of new over old probability, `clipped` the share that is beyond the clip."""
        total, watched, _ = self.policy_loss(model, batch)
        return Loss(total, watched)

    def policy_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The summed policy loss, sums of what is worth watching, and the log-probabilities [labels]."""
        section = self.section
        logprobs = batch_logprobs(model, batch, section.temperature)
        old, advantages, weights = self.experience.of(batch, "old", "advantages", "weights")
        high = section.clip if section.clip_high is None else section.clip_high
        losses, ratio, clipped = ppo_loss(logprobs, old, advantages, low=section.clip, high=high)
        total = (losses * weights * self.per_label(batch)).sum()
        even = 1.0 if self.units(batch) == len(batch.targets) else in_its_row(batch)
        moved = kl(old, logprobs.detach(), "k3")
        watched = {"ratio": ratio.detach(), "clipped": clipped, "kl_from_old": moved}
        return total, {name: (value * even).sum() for name, value in watched.items()}, logprobs


def in_its_row(batch: Batch) -> Tensor:
    """[labels] the share of a label in its answer: sums of means over answers."""
    return 1.0 / torch.bincount(batch.rows, minlength=len(batch.numbers))[batch.rows]


def spread_out(rows: Tensor, experience: Experience) -> Tensor:
    """What is known of rows [rows] for each of their labels [labels]."""
    return rows.repeat_interleave(experience.counts)


def answer_kl(experience: Experience) -> Tensor:
    """KL [rows] of each answer from the model before training: k1 summed over its tokens; 0 without a reference."""
    if "reference" not in experience.labels:
        return torch.zeros(len(experience.rows))
    per_token = kl(experience.labels["old"], experience.labels["reference"])
    owner = torch.arange(len(experience.rows)).repeat_interleave(experience.counts)
    return torch.zeros(len(experience.rows)).index_add(0, owner, per_token)
