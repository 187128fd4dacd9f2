"""The nouns that every room shares: small, frozen, standard library only."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, or one plain text (`text` set, `messages` empty), with the place it was read from."""

    source: str
    line: int
    messages: tuple[Message, ...] = ()
    text: str | None = None

    @property
    def where(self) -> str:
        """The place in the input, as `file:line`."""
        return f"{self.source}:{self.line}"

    def to_json(self) -> Json:
        """The example as one JSON object; `from_json` reads it back."""
        row: Json = {"source": self.source, "line": self.line}
        if self.text is not None:
            return row | {"text": self.text}
        return row | {"messages": [asdict(message) for message in self.messages]}

    @classmethod
    def from_json(cls, row: Json) -> "Example":
        """Read what `to_json` wrote."""
        messages = tuple(Message(**message) for message in row.get("messages", ()))
        return cls(row["source"], row["line"], messages, row.get("text"))


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one input row.

    `name` is `kept` or the rule that rejected the row; `reason` is a sentence for a person; `duplicate_of` is the
    place (`file:line`) of the row that was kept instead.
    """

    name: str
    reason: str = ""
    duplicate_of: str | None = None

    @property
    def kept(self) -> bool:
        """True when the row goes on to training or validation."""
        return self.name == "kept"


KEPT = Fate("kept")


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its uncertainty: `low` and `high` bound it at 95 %, `n` is the number of items behind it."""

    name: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one item of a task, with the score it got."""

    item: str
    prompt: tuple[Message, ...]
    expected: str
    answer: str
    score: float
    stopped: bool
    group: str = field(default="")
