"""The recipe: a name, a seed and eight sections."""

from typing import Annotated

from pydantic import Field, model_validator

from luthier.recipe.data import Data
from luthier.recipe.evaluate import Evaluate
from luthier.recipe.gate import Gate
from luthier.recipe.model import Model
from luthier.recipe.objective import Objective, Sft
from luthier.recipe.policy import Policy, Ppo
from luthier.recipe.release import Release
from luthier.recipe.section import Section
from luthier.recipe.training import Training
from luthier.recipe.tuning import MERGES, Auto, Qlora, Tuning


class Recipe(Section):
    """Everything that is wanted of a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
    """Name of the run: letters, digits, `.`, `_` and `-`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything that is drawn at random."""
    model: Model = Model()
    """What to start from."""
    data: Data
    """The rows."""
    tuning: Tuning = Auto()
    """Which weights may change."""
    objective: Objective = Sft()
    """What is optimised."""
    training: Training = Training()
    """The loop."""
    evaluate: Evaluate = Evaluate()
    """What is measured."""
    gate: Gate = Gate()
    """Whether it may be released."""
    release: Release = Release()
    """What is made of it."""

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> "Recipe":
        if self.release.merge is False and self.release.dtype != "auto":
            raise ValueError("release.dtype has no effect when release.merge is false; remove one of them")
        if self.release.merge is True and not isinstance(self.tuning, Auto) and self.tuning.kind not in MERGES:
            raise ValueError(
                f"release.merge=true cannot be: {self.tuning.kind} tuning leaves nothing that can be written into the "
                "base's weights; leave release.merge out, and the adapter is released beside the base"
            )
        if self.data.replay and self.objective.rows != "examples":
            raise ValueError(f"data.replay has no effect with objective '{self.objective.kind}'; remove one of them")
        if isinstance(self.objective, Policy):
            self._check_policy(self.objective)
        if self.training.parallel and self.training.devices == 1:
            raise ValueError("training.parallel has no effect with one device; remove one of them")
        if self.training.parallel == "fsdp" and isinstance(self.tuning, Qlora):
            raise ValueError(
                "training.parallel=fsdp cannot share out a quantised base; choose ddp, or tuning.kind=lora"
            )
        micro, whole = self.training.micro_batch_tokens, self.training.batch_tokens
        if micro and whole and micro > whole:
            raise ValueError(f"training.micro_batch_tokens ({micro}) must not exceed training.batch_tokens ({whole})")
        return self

    def _check_policy(self, objective: Policy) -> None:
        """What does not go together with rewards for the model's own answers."""
        kind = objective.kind  # type: ignore[attr-defined]  # every objective has one
        if self.data.replay:
            raise ValueError(f"data.replay has no effect with objective '{kind}'; remove one of them")
        if self.training.parallel == "fsdp":
            raise ValueError(f"training.parallel=fsdp: the answers of '{kind}' are sampled by whole models; choose ddp")
        if getattr(self.tuning, "dropout", 0.0):
            raise ValueError(f"tuning.dropout has to be 0 with '{kind}': ratios of probabilities would be noise")
        if self.training.neftune:
            raise ValueError(f"training.neftune has to be 0 with '{kind}': ratios of probabilities would be noise")
        if self.training.batch_tokens is not None:
            raise ValueError(
                f"training.batch_tokens has no effect with '{kind}': objective.prompts, answers and minibatches say "
                "how large an update is; remove it"
            )
        if isinstance(objective, Ppo) and self.tuning.kind not in ("auto", "full", "freeze", "lora", "qlora"):
            raise ValueError(
                f"ppo learns a value with an adapter or weights of its own, which '{self.tuning.kind}' has no place "
                "for; choose lora, qlora, freeze or full, or objective.kind=grpo"
            )
