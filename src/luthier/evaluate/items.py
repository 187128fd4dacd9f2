"""What a task is: items, how they are asked, how the answers are decoded and scored. Read without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from luthier.artifact import digest
from luthier.types import Answer, Message, Metric, Score

Kind = Literal["generate", "choose", "likelihood", "harness"]
Role = Literal["task", "retention", "safety", "instructions", "regression"]


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    Attributes:
        id: unique within its task; results of two models are paired by it.
        prompt: the conversation to answer; empty when `text` is the prompt.
        expected: the right answer, or for a choice the right choice's text.
        group: a skill, a subject or a source, for slices of the result.
        text: a plain prompt without chat template, as base models are asked.
        others: further right answers; the best match counts.
        choices: the answers to choose from, for tasks that choose.
        more: what a scorer needs besides: tests, a schema, instructions.
        family: items of one family, disguises of one question for example, count as one.
    """

    id: str
    prompt: tuple[Message, ...] = ()
    expected: str = ""
    group: str = ""
    text: str | None = None
    others: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    family: str = ""

    @property
    def right(self) -> tuple[str, ...]:
        """Every right answer."""
        return (self.expected, *self.others)

    @property
    def asked(self) -> tuple[Message, ...]:
        """The prompt as turns, a plain one too, for people to read."""
        return self.prompt if self.text is None else (Message("user", self.text),)

    def identity(self) -> str:
        """A hash of all that the answer depends on, and of what it is compared with."""
        return digest({**asdict(self), "prompt": [m.to_json() for m in self.prompt]})


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are drawn: greedy at temperature 0, else `samples` answers an item from the `top_p` nucleus.

    `stop` are strings at which an answer is cut, `max_new_tokens` its longest length (None: from what is expected).
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()


Scorer = Callable[[str, Item], Score]
Summary = Callable[[str, Sequence[Answer]], list[Metric]]


def unscored(answer: str, item: Item) -> Score:  # noqa: ARG001 - the form of a scorer
    """For tasks whose score is the likelihood itself."""
    return Score(0.0)


@dataclass(frozen=True, slots=True)
class Task:
    """Items, how they are asked, and how their answers are scored and summed up.

    `kind` says how: `generate` an answer, `choose` the likeliest of the choices, the `likelihood` of a text, or
    `harness` for what lm-evaluation-harness asks.
    `scoring` names the scorer with its settings: it enters the lock of a suite.
    """

    name: str
    items: tuple[Item, ...]
    score: Scorer = unscored
    kind: Kind = "generate"
    decoding: Decoding = Decoding()
    summarise: Summary | None = None
    scoring: str = ""
    role: Role = "task"
    lower_is_better: bool = False
    margin: float | None = None
    """By how much the metric may get worse unless a rule says otherwise; None leaves it to the role."""
    reserve: tuple[Item, ...] = ()
    """Items that are asked only when the gate needs more, or to replace burnt ones."""
    score_all: Callable[[Sequence[str], Sequence[Item]], list[Score]] | None = None
    """Scores all answers at once where that is quicker than one by one: programs, a judge."""

    def whole(self) -> str:
        """A hash of all items, those in reserve too, that stays while items change places between the two."""
        return digest([self.name, self.scoring, sorted(item.identity() for item in (*self.items, *self.reserve))])
