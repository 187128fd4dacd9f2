"""The nouns that every room shares: small, frozen, standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Json = dict[str, Any]
Outcome = Literal["scored", "empty", "unparsed", "failed"]
"""What became of an answer: `empty` said nothing, `unparsed` lacks the form asked for (both score 0 and are counted),
`failed` could not be judged, a sandbox that broke for example, and is no part of any mean."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `reasoning` is what an assistant thinks before it answers, for templates that have a place for it. `tool_calls` are
    calls in OpenAI's form, `{"type": "function", "function": {"name": ..., "arguments": {...}}}`, and `tool_call_id`
    and `name` tell which call a `tool` turn answers. `train` says whether an assistant turn is learned; None leaves it
    to the recipe.
    """

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[Json, ...] = field(default=(), hash=False)
    tool_call_id: str | None = None
    name: str | None = None
    train: bool | None = None

    def to_json(self) -> Json:
        """The turn as one JSON object, without what it does not have; `from_json` reads it back."""
        row: Json = {"role": self.role, "content": self.content}
        if self.tool_calls:
            row["tool_calls"] = list(self.tool_calls)
        optional = ("reasoning", "tool_call_id", "name", "train")
        return row | {key: value for key in optional if (value := getattr(self, key)) is not None}

    @classmethod
    def from_json(cls, row: Json) -> "Message":
        """Read what `to_json` wrote."""
        return cls(**{**row, "tool_calls": tuple(row.get("tool_calls", ()))})


NO_ANSWER = Message("assistant", "", train=False)
"""Ends a conversation that the model is to answer itself, where the row has no answer to compare with."""


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, or one plain text (`text` set, `messages` empty), with the place it was read from.

    `tools` are the definitions of the tools that the assistant may call, as JSON Schema. `rating` is a person's
    judgement of the last answer where the data has one: above 0 wanted, below 0 unwanted.
    """

    source: str
    line: int
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[Json, ...] = field(default=(), hash=False)
    rating: float | None = None

    @property
    def where(self) -> str:
        """The place in the input, as `file:line`."""
        return f"{self.source}:{self.line}"

    def to_json(self) -> Json:
        """The example as one JSON object; `from_json` reads it back."""
        row = _head(self, "rating")
        if self.text is not None:
            return row | {"text": self.text}
        return row | {"messages": [message.to_json() for message in self.messages]}

    @classmethod
    def from_json(cls, row: Json) -> "Example":
        """Read what `to_json` wrote."""
        messages = tuple(map(Message.from_json, row.get("messages", ())))
        tools = tuple(row.get("tools", ()))
        return cls(row["source"], row["line"], messages, row.get("text"), tools, row.get("rating"))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, of which one is preferred, with the place it was read from.

    `chosen` and `rejected` are the turns after the common `prompt`, usually one assistant turn each; `margin` says by
    how much the chosen one is better where the data has it.
    """

    source: str
    line: int
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Json, ...] = field(default=(), hash=False)
    margin: float | None = None

    @property
    def where(self) -> str:
        """The place in the input, as `file:line`."""
        return f"{self.source}:{self.line}"

    def to_json(self) -> Json:
        """The pair as one JSON object; `from_json` reads it back."""
        row = _head(self, "margin")
        sides = ("prompt", "chosen", "rejected")
        return row | {side: [message.to_json() for message in getattr(self, side)] for side in sides}

    @classmethod
    def from_json(cls, row: Json) -> "Pair":
        """Read what `to_json` wrote."""
        prompt, chosen, rejected = (tuple(map(Message.from_json, row[k])) for k in ("prompt", "chosen", "rejected"))
        tools = tuple(row.get("tools", ()))
        return cls(row["source"], row["line"], prompt, chosen, rejected, tools, row.get("margin"))


def _head(content: Example | Pair, judgement: str) -> Json:
    """What both begin with: the place, the tools, and people's judgement where there is one."""
    row: Json = {"source": content.source, "line": content.line}
    if content.tools:
        row["tools"] = list(content.tools)
    value = getattr(content, judgement)
    return row if value is None else row | {judgement: value}


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one input row.

    `name` is `kept` or what was wrong with the row; `reason` is a sentence for a person; `duplicate_of` is the place
    (`file:line`) of the row that was kept instead; `score` is the number that the reason rests on, where there is one.
    """

    name: str
    reason: str = ""
    duplicate_of: str | None = None
    score: float | None = None

    @property
    def kept(self) -> bool:
        """True when the row goes on to training or validation."""
        return self.name == "kept"


KEPT = Fate("kept")


@dataclass(frozen=True, slots=True)
class Score:
    """How good an answer is, from 0 to 1; what else was measured of it, by name; and what became of it."""

    value: float
    outcome: Outcome = "scored"
    parts: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its uncertainty: `low` and `high` bound it at 95 %, `n` is the number of items behind it.

    `empty`, `unparsed` and `failed` count answers by their outcome; `n` holds the first two, not the third.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    empty: int = 0
    unparsed: int = 0
    failed: int = 0
    lower_is_better: bool = False

    def __str__(self) -> str:
        counts = ((self.empty, "empty"), (self.unparsed, "unparsed"), (self.failed, "failed"))
        told = "".join(f", {count} {name}" for count, name in counts if count)
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}{told}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one item of a task, with the score it got; `tokens` is its length, `sample` its number."""

    item: str
    prompt: tuple[Message, ...]
    expected: str
    answer: str
    score: float
    stopped: bool
    group: str = field(default="")
    outcome: Outcome = "scored"
    parts: Mapping[str, float] = field(default_factory=dict, hash=False)
    tokens: int = 0
    sample: int = 0
    family: str = ""

    @property
    def cluster(self) -> str:
        """What counts as one: the family of items, or the item with all its samples."""
        return self.family or self.item
