"""Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) and its two corrections.

| loss | advantage of an answer | divided by | source |
| --- | --- | --- | --- |
| grpo | (r - mean) / std of its prompt's answers | tokens of the answer, then answers | Shao et al. 2024, eq. 3 |
| dapo | the same | all tokens of the update | Yu et al. 2025, arXiv:2503.14476, eq. 8 |
| dr_grpo | r - mean | answers times the longest length allowed | Liu et al. 2025, arXiv:2503.20783, 3.2 |

Where all answers to a prompt are equally good there is nothing to learn, neither from the advantage, which is 0, nor
from the KL: such answers have no gradient at all.
"""

from typing import Any

import torch

from luthier.models.batch import Batch
from luthier.train import reinforce
from luthier.train.experience import Experience
from luthier.train.objectives.objective import Loss
from luthier.train.objectives.policy import PolicyObjective, in_its_row, spread_out


class Grpo(PolicyObjective):
    """Loss = policy loss + beta k3, summed over tokens; the units are answers, of `dapo` tokens."""

    room = 1
    """The longest answer allowed, in tokens; set before the first rollout."""

    def prepare(self, experience: Experience) -> None:
        """One advantage for all tokens of an answer."""
        scores, groups = experience.facts["scores"], experience.facts["groups"]
        found, tells = reinforce.group_advantages(scores, groups, scale=self.section.loss != "dr_grpo")
        experience.labels |= {
            "advantages": spread_out(found, experience),
            "tells": spread_out(tells.float(), experience),
        }

    def units(self, batch: Batch) -> float:
        """Answers; tokens for `dapo`."""
        return len(batch.targets) if self.section.loss == "dapo" else len(batch.numbers)

    def per_label(self, batch: Batch) -> torch.Tensor | float:
        """The share of one token in its answer."""
        if self.section.loss == "dapo":
            return 1.0
        if self.section.loss == "dr_grpo":
            return 1.0 / self.room
        return in_its_row(batch)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss."""
        total, watched, logprobs = self.policy_loss(model, batch)
        if self.anchored:
            reference, tells = self.experience.of(batch, "reference", "tells")
            divergence = reinforce.kl(logprobs, reference, "k3") * tells * self.per_label(batch)
            watched["kl_loss"] = divergence.detach().sum()
            total = total + self.section.kl * divergence.sum()
        return Loss(total, watched)
