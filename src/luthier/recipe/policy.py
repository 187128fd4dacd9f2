"""Objectives that learn from rewards for their own answers: `ppo`, `grpo`, `rloo`, `online_dpo`."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.reward import Reward
from luthier.recipe.section import Section

if TYPE_CHECKING:
    from luthier.recipe.objective import RowKind


class Policy(Section):
    """What they have in common: how answers are sampled, what they are worth, and when it has gone wrong."""

    rewards: Annotated[tuple[Reward, ...], Field(min_length=1)]
    """What an answer is worth: a weighted sum."""
    held_out: tuple[Reward, ...] = ()
    """What the answers to held-out prompts are judged by at every validation; the best greedy answers are kept.
    Should be none of `rewards`: another reward model, an exact task. When not given: the rewards where all of them
    compare with the rows' own answers, else the word overlap (`f1`) with these."""
    prompts: Annotated[int, Field(ge=1)] = 64
    """Prompts of one rollout."""
    answers: Annotated[int, Field(ge=1)] = 1
    """Answers to each prompt."""
    passes: Annotated[int, Field(ge=1)] = 1
    """How often each rollout is learned."""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """Updates of one pass."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer; a quarter longer than the rows' longest one when not given."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the sampling. Log-probabilities are those at this temperature throughout."""
    missing_end: Annotated[float, Field(ge=0)] = 0.0
    """What is taken off the reward of an answer that did not end by itself."""
    sampler: Literal["in_process", "vllm"] = "in_process"
    """What writes the answers: the model being trained itself, or vLLM on the same GPU with the adapter of the
    moment."""
    held_out_prompts: Annotated[int, Field(ge=8)] = 200
    """Validation prompts that are answered at every validation, greedily and sampled."""
    tolerance: Annotated[float, Field(gt=0)] = 0.02
    """How far the held-out score, of greedy or of sampled answers, may fall below its best while the reward rises,
    before the run is ended."""
    stop_when_gamed: bool = True
    """End the run when the reward rises while the held-out score falls. Off: warn."""

    @property
    def rows(self) -> "RowKind":
        """Prompts are enough, unless something compares with the rows' own answers."""
        return "examples" if any(part.compares for part in (*self.rewards, *self.held_out)) else "prompts"


class Clipped(Policy):
    """What moves the policy by ratios of new to old probability."""

    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far below 1 the ratio of new to old probability may fall and still gain by it."""
    clip_high: Annotated[float, Field(gt=0)] | None = None
    """The same above 1 (Yu et al. 2025, DAPO, arXiv:2503.14476, take 0.28); as `clip` when not given."""
    truncate: Annotated[float, Field(ge=1)] = 2.0
    """Most that an answer of another sampler weighs: the cap of truncated importance sampling."""


class Ppo(Clipped):
    """Proximal policy optimisation: a value for every token, advantages by GAE, the KL as a penalty in the reward."""

    kind: Literal["ppo"]
    """Proximal policy optimisation from rewards (Schulman et al. 2017, arXiv:1707.06347; Ziegler et al. 2019)."""
    passes: Annotated[int, Field(ge=1)] = 2
    """How often each rollout is learned."""
    minibatches: Annotated[int, Field(ge=1)] = 2
    """Updates of one pass."""
    prompts: Annotated[int, Field(ge=1)] = 256
    """Prompts of one rollout."""
    kl: Annotated[float, Field(ge=0)] = 0.02
    """Coefficient of the penalty for every token's KL from the model before training; 0 needs no reference."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """KL of an answer in nats that the coefficient is steered to (Ziegler et al. 2019); it is fixed when not given."""
    kl_horizon: Annotated[int, Field(ge=1)] | None = None
    """Answers over which the steered coefficient changes by a fifth at most; 10,000 when not given."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What a reward one token later is worth."""
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    """GAE's lambda: 1 trusts the rewards that came, 0 the values."""
    whiten: bool = True
    """Scale the advantages of a rollout to mean 0 and spread 1."""
    value_weight: Annotated[float, Field(gt=0)] = 0.5
    """Weight of the value loss."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    """How far a value may move from that of the rollout and still gain by it; null does not clip."""

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> "Ppo":
        if self.kl_target is not None and not self.kl:
            raise ValueError("objective.kl_target has no effect with objective.kl=0; remove one of them")
        if self.kl_horizon is not None and self.kl_target is None:
            raise ValueError("objective.kl_horizon has no effect without objective.kl_target; remove it")
        return self


class Grouped(Clipped):
    """What compares the answers to one prompt with each other, and so needs no value."""

    @model_validator(mode="after")
    def _a_group_has_two(self) -> "Grouped":
        if self.answers < 2:
            raise ValueError("objective.answers has to be 2 or more: the answers to one prompt are compared")
        return self


class Grpo(Grouped):
    """Group-relative policy optimisation: an answer's advantage is how far it is above the others of its prompt."""

    kind: Literal["grpo"]
    """Group-relative policy optimisation from rewards (Shao et al. 2024, arXiv:2402.03300)."""
    answers: Annotated[int, Field(ge=1)] = 8
    """Answers to each prompt."""
    prompts: Annotated[int, Field(ge=1)] = 32
    """Prompts of one rollout."""
    loss: Literal["grpo", "dr_grpo", "dapo"] = "dapo"
    """Over what the loss is averaged. `grpo`: tokens of an answer, then answers; `dapo`: all tokens (Yu et al. 2025);
    `dr_grpo`: answers times the longest length allowed, without the division by the group's spread (Liu et al. 2025,
    arXiv:2503.20783)."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL (k3) from the model before training in the loss; 0 needs no reference."""


class Rloo(Grouped):
    """REINFORCE with the mean of the other answers to the prompt as the baseline."""

    kind: Literal["rloo"]
    """REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740)."""
    answers: Annotated[int, Field(ge=1)] = 4
    """Answers to each prompt."""
    kl: Annotated[float, Field(ge=0)] = 0.02
    """Coefficient of an answer's KL from the model before training, taken off its reward; 0 needs no reference."""


class OnlineDpo(Policy):
    """Direct preference optimisation on pairs of its own answers, of which the rewards say the better one."""

    kind: Literal["online_dpo"]
    """DPO on two fresh answers to each prompt (Guo et al. 2024, arXiv:2402.04792)."""
    answers: Literal[2] = 2
    """Answers to each prompt: a pair."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held to where it began."""
