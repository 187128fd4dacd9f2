"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740, equation 8).

An answer is one action: what it is worth is its reward less beta times its KL from the model before training, its
baseline the mean of the other answers to the prompt. With one pass over each rollout the gradient is that of REINFORCE;
further passes are held back by the clip, as in PPO.
"""

from luthier.models.batch import Batch
from luthier.train import reinforce
from luthier.train.experience import Experience
from luthier.train.objectives.policy import PolicyObjective, answer_kl, spread_out


class Rloo(PolicyObjective):
    """Loss = the policy loss summed over the tokens of an answer; the units are answers."""

    def prepare(self, experience: Experience) -> None:
        """One advantage for all tokens of an answer."""
        worth = experience.facts["scores"] - self.section.kl * answer_kl(experience)
        found, _ = reinforce.group_advantages(worth, experience.facts["groups"], baseline="others", scale=False)
        experience.labels["advantages"] = spread_out(found, experience)

    def units(self, batch: Batch) -> float:
        """Answers."""
        return len(batch.numbers)

    def per_label(self, batch: Batch) -> float:  # noqa: ARG002 - all alike
        """Every token counts once."""
        return 1.0
