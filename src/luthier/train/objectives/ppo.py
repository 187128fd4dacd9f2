"""Proximal policy optimisation (Schulman et al. 2017) of language models (Ziegler et al. 2019; Ouyang et al. 2022).

Every token is a step. Its reward is -beta k1, the KL from the model before training, and at the last token what the
answer is worth; advantages come from GAE over the values of the critic, which is learned beside the policy.
"""

from typing import Any

from luthier.models.batch import Batch
from luthier.train import reinforce
from luthier.train.experience import Experience
from luthier.train.objectives.objective import Loss
from luthier.train.objectives.policy import PolicyObjective

KL_HORIZON = 10_000
"""Answers; Ziegler et al. 2019, section 2.2."""


class Ppo(PolicyObjective):
    """Loss = policy loss + weight * value loss, both summed over tokens; the units are tokens."""

    critic = True

    def __init__(self, section: Any) -> None:
        super().__init__(section)
        self.beta = float(section.kl)

    @property
    def penalty(self) -> float:
        """The coefficient of the KL as it is now."""
        return self.beta

    def prepare(self, experience: Experience) -> None:
        """Advantages and returns by GAE."""
        section, mask = self.section, experience.mask
        penalties = experience.padded("old") * 0
        if self.anchored:
            penalties = self.beta * reinforce.kl(experience.padded("old"), experience.padded("reference"))
        rewards = reinforce.token_rewards(experience.facts["scores"], penalties, mask)
        values = experience.padded("values")
        advantages, returns = reinforce.gae(rewards, values, mask, gamma=section.gamma, lam=section.lam)
        if section.whiten:
            advantages = reinforce.whiten(advantages, mask)
        experience.labels |= {"advantages": advantages[mask], "returns": returns[mask]}

    def observe(self, divergence: float, answers: int) -> None:
        """Steer the coefficient to the KL that is wanted."""
        target = self.section.kl_target
        if target is not None:
            horizon = self.section.kl_horizon or KL_HORIZON
            self.beta = reinforce.adapted(self.beta, divergence, target, answers, horizon)

    def state(self) -> dict[str, Any]:
        """The coefficient."""
        return {"beta": self.beta}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to it."""
        self.beta = state["beta"]

    def per_label(self, batch: Batch) -> float:  # noqa: ARG002 - all alike
        """Every token counts once."""
        return 1.0

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss of policy and values."""
        section = self.section
        total, watched, _ = self.policy_loss(model, batch)
        values = model.critic.values(model, batch)
        old, returns = self.experience.of(batch, "values", "returns")
        losses, clipped = reinforce.value_loss(values, old, returns, clip=section.value_clip)
        watched |= {"policy_loss": total.detach(), "value_loss": losses.detach().sum(), "value_clipped": clipped.sum()}
        return Loss(total + section.value_weight * losses.sum(), watched)
