"""What an answer is worth. Adding a kind is a section here, a line in `Reward`, and one in `train/rewards.py`."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from luthier.recipe.section import Section


class Part(Section):
    """What all parts have in common."""

    weight: float = 1.0
    """What the part is multiplied with before all are summed; below 0 for what is not wanted."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w.-]{0,40}$")] | None = None
    """What the log calls it; its kind, or its scorer's or function's name, when not given."""
    seconds: Annotated[float, Field(gt=0)] = 30.0
    """Longest time that one answer may take; an answer that takes longer has no reward and is counted."""

    @model_validator(mode="after")
    def _weighs_something(self) -> "Part":
        if self.weight == 0:
            raise ValueError("a reward of weight 0 has no effect; remove it")
        return self

    @property
    def compares(self) -> bool:
        """Whether it needs the row's own answer."""
        return False


_GROUP = re.compile(r"(?<!\\)\((?!\?)|\(\?P<")
"""The beginning of a group that catches something."""


class ScorerReward(Part):
    """A scorer of the evaluation, which compares with the row's own answer or checks a form."""

    kind: Literal["scorer"]
    """`exact_match`, `final_number`, `json_equal`, `regex`, `json_schema` and the other scorers of `luthier
    evaluate`."""
    scorer: str
    """Its name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Its settings: `{pattern: "^[A-Z]"}` for `regex`, `{schema: {...}}` for `json_schema`."""

    @property
    def compares(self) -> bool:
        """Every scorer does, but one of a form that the recipe gives; what a group of a pattern catches is compared."""
        if self.scorer == "regex" and isinstance(pattern := self.settings.get("pattern"), str):
            return _GROUP.search(pattern) is not None
        return not (self.scorer == "json_schema" and self.settings)


class CodeReward(Part):
    """1 when the program in the answer passes the tests, run in the sandbox; the tests are the row's own answer."""

    kind: Literal["code"]
    """Programs. The last answer of each row holds the tests, in Python."""

    @property
    def compares(self) -> bool:
        """With the tests."""
        return True


class PythonReward(Part):
    """A function of yours, `def reward(answer: str, item: Item) -> float`.

    `item.expected` is the row's own answer, `item.prompt` the conversation before it.
    """

    kind: Literal["python"]
    """A function in a Python file. The file is run: it is yours."""
    path: str
    """The file; a relative path is looked for beside the recipe first."""
    function: str = "reward"
    """The function's name."""


class LengthReward(Part):
    """1 for an answer of `goal` tokens, falling evenly to 0 at no token and at twice as many."""

    kind: Literal["length"]
    """How long an answer is."""
    goal: Annotated[int, Field(ge=1)]
    """Tokens of the answer that is worth most."""


class OverlongReward(Part):
    """0 up to `room` tokens below the longest answer allowed, falling evenly to -1 there (Yu et al. 2025, DAPO)."""

    kind: Literal["overlong"]
    """A penalty for answers that come close to the limit."""
    room: Annotated[int, Field(ge=1)]
    """Over how many tokens before the limit it falls."""


class ModelReward(Part):
    """A reward model: a run of objective `reward`, or any sequence classifier of transformers.

    A run's adapter on the base of this very run is put beside the policy's, so that the base is in memory once.
    """

    kind: Literal["model"]
    """A reward model, or several."""
    model: str | tuple[str, ...]
    """A run of objective `reward` (its folder, with or without the hash at its end), a folder with a sequence
    classifier, or a hub id; several make an ensemble."""
    combine: Literal["mean", "worst", "mean_minus_spread"] | None = None
    """What an ensemble says: the mean when not given, the lowest score, or the mean less the standard deviation
    (Coste et al. 2023, arXiv:2310.02743)."""
    label: str | None = None
    """For a classifier with several labels: the one whose probability is the score."""
    normalise: bool = True
    """Shift and scale scores to mean 0 and spread 1 over answers of the dataset. The numbers come with the reward
    model, or are found before training."""

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> "ModelReward":
        if self.combine is not None and isinstance(self.model, str):
            raise ValueError("combine has no effect with a single reward model; remove one of them")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """All of them."""
        return (self.model,) if isinstance(self.model, str) else self.model


Reward = Annotated[
    ScorerReward | CodeReward | PythonReward | LengthReward | OverlongReward | ModelReward, Field(discriminator="kind")
]
