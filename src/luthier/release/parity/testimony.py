"""What a model says to the probes: how it reads them, how probable it finds what may follow, what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.types import Json

POSITIONS = 16
"""Places of each answer at which the next token's probabilities are compared, the end of the prompt included."""
PROBABLE = 64
"""Likeliest tokens that are compared at a place; all others count as one."""
PLAIN = "The quick brown fox, 12 of them."
"""A text without control tokens, to see what a tokenizer puts around one."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt: its turns (None for plain text), the text they render to, and that text's ids."""

    messages: Sequence[Json] | None
    text: str | None
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Said:
    """A greedy answer: ids without the end token, text, and whether it ended by itself."""

    ids: list[int]
    text: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Testimony:
    """All that one witness says.

    Attributes:
        rendered: the prompts' text by its own template; None where it has no say in that.
        ids: their ids by its own tokenizer, likewise.
        around: ids that its tokenizer puts before and after a text.
        controls: id -> text of the control tokens, and the roles `bos`, `eos`.
        answers: greedy ones; empty where it only scores.
        scores: for each prompt and place, token -> log-probability of the likeliest.
        computed: the format that it computed in; bounds allow for one narrower than float32.
    """

    rendered: list[str] | None = None
    ids: list[list[int]] | None = None
    around: list[list[int]] | None = None
    controls: Mapping[str, str] | None = None
    answers: list[Said] = field(default_factory=list)
    scores: list[list[dict[int, float]]] = field(default_factory=list)
    computed: str = "float32"

    def to_json(self) -> Json:
        """As one JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Testimony":
        """What `to_json` gave, read from a file (where keys are texts)."""
        scores = [[{int(i): float(p) for i, p in place.items()} for place in row] for row in body["scores"]]
        answers = [Said(**one) for one in body["answers"]]
        return cls(**{**body, "scores": scores, "answers": answers})


def put_around(alone: list[int], ready: list[int]) -> list[list[int]]:
    """What a tokenizer puts before and after a text, from the text's ids alone and as they are ready for a model."""
    for start in range(len(ready) - len(alone) + 1):
        if ready[start : start + len(alone)] == alone:
            return [ready[:start], ready[start + len(alone) :]]
    return [ready, []]


def controls_of(tokenizer: Any) -> dict[str, str]:
    """The tokens that a tokenizer reads as control tokens, and who begins and ends."""
    found = {str(i): token.content for i, token in tokenizer.added_tokens_decoder.items()}
    roles = {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
    return found | {role: token for role, token in roles.items() if token is not None}
