"""What a step of curation is. Two kinds, both built from a section of the recipe and both pure.

A `RowStep` looks at one row and needs no other: a shard of rows goes in, a shard comes out, on any process or machine,
and what it said of a row is remembered by content. A `SetStep` compares rows: `signature` is the part done row by row
(and remembered), `resolve` the part that sees the signatures of all rows that are still kept.

Row steps run in the order of `STEPS`, the first fate ends a row's way; then rows are rendered; then set steps run, so
that the row kept of a cluster is one that can be trained.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from luthier.artifact import digest
from luthier.data.hints import Hints, hints, looker
from luthier.data.split import asked, content_group, normalise_all
from luthier.data.statistics import Statistics, Table, tabulate
from luthier.recipe.section import Section
from luthier.types import Example, Fate, Json, Message, Pair

Content = Example | Pair
SettingsT = TypeVar("SettingsT", bound=Section)


class Row:
    """One row on its way. What several steps need of it is worked out once."""

    def __init__(self, content: Content) -> None:
        self.content = content

    @property
    def where(self) -> str:
        """The place in the input, as `file:line`."""
        return self.content.where

    @property
    def is_document(self) -> bool:
        """True for plain text, false for conversations and pairs."""
        return isinstance(self.content, Example) and self.content.text is not None

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """All turns, of a pair those of the prompt, the chosen and the rejected answer; none for plain text."""
        if isinstance(self.content, Pair):
            return self.content.prompt + self.content.chosen + self.content.rejected
        return self.content.messages

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The texts of the assistant's turns."""
        return tuple(turn.content for turn in self.messages if turn.role == "assistant")

    @cached_property
    def prompt(self) -> str:
        """What is asked first: the first user turn, or nothing for plain text."""
        return next((turn.content for turn in self.messages if turn.role == "user"), "")

    @cached_property
    def text(self) -> str:
        """Everything a reader sees but system turns, which whole sources share: turns joined by a blank line."""
        if isinstance(self.content, Example) and self.content.text is not None:
            return self.content.text
        return "\n\n".join(turn.content for turn in self.messages if turn.role != "system")

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every text of the row: system turns, reasoning and the arguments of tool calls as well."""
        if isinstance(self.content, Example) and self.content.text is not None:
            return (self.content.text,)
        found: list[str] = []

        def collect(text: str) -> str:
            found.append(text)
            return text

        self.with_texts(collect)
        return tuple(found)

    @cached_property
    def group(self) -> str:
        """What must not stand on both sides of a division: the first user turn or the plain text, normalised."""
        return content_group(self.content)

    @cached_property
    def hints(self) -> Hints:
        """Which costly patterns are worth trying on the row's texts."""
        return hints("\n".join(self.texts))

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """Counts of words, lines and repetition in `text`: the fields of `Statistics`."""
        found: NDArray[np.float64] = tabulate([self.text])[0]
        return found

    def with_texts(self, change: Callable[[str], str]) -> Content:
        """The content with every text in it changed: turns, reasoning, arguments of tool calls, plain text."""

        def turns(given: tuple[Message, ...]) -> tuple[Message, ...]:
            return tuple(_changed(turn, change) for turn in given)

        found = self.content
        if isinstance(found, Pair):
            prompt, chosen, rejected = turns(found.prompt), turns(found.chosen), turns(found.rejected)
            return replace(found, prompt=prompt, chosen=chosen, rejected=rejected)
        if found.text is not None:
            return replace(found, text=change(found.text))
        return replace(found, messages=turns(found.messages))


def look_over(rows: Sequence[Row]) -> None:
    """Work out the groups and the hints of many rows at once."""
    for row, group in zip(rows, normalise_all([asked(row.content) for row in rows]), strict=True):
        row.group = group
    for row, found in zip(rows, looker()(["\n".join(row.texts) for row in rows]), strict=True):
        row.hints = found


def counts_of(rows: Sequence[Row]) -> Table:
    """The counts of many rows, worked out at once where that is still to be done: `[n, 25]`."""
    new = [row for row in rows if "counts" not in vars(row)]
    for row, found in zip(new, tabulate([row.text for row in new]), strict=True):
        row.counts = found
    return np.array([row.counts for row in rows]).reshape(len(rows), len(Statistics._fields))


def _changed(turn: Message, change: Callable[[str], str]) -> Message:
    return replace(
        turn,
        content=change(turn.content),
        reasoning=None if turn.reasoning is None else change(turn.reasoning),
        tool_calls=tuple(_call(call, change) for call in turn.tool_calls),
    )


def _call(call: Json, change: Callable[[str], str]) -> Json:
    """A tool call with its arguments changed; the names by which call and function are found stay."""
    function = call.get("function", {})
    return call | {"function": function | {"arguments": _deep(function.get("arguments"), change)}}


def _deep(value: Any, change: Callable[[str], str]) -> Any:
    """Every text in a JSON value changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_deep(part, change) for part in value]
    if isinstance(value, dict):
        return {key: _deep(part, change) for key, part in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Finding:
    """What a row step says of one row. The default is: nothing to say, the row goes on as it is.

    `fate` ends the row's way; its `name` tells what is wrong (`secret`), its `reason` where and why, for a person.
    `changed` is the content to go on with. `risk`, from 0 to 1, sends rows that are kept to review, riskiest first.
    `note` is written into the ledger beside a changed or risky row.
    """

    fate: Fate | None = None
    changed: Content | None = None
    risk: float = 0.0
    note: str = ""


PASS = Finding()


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One item that the model will be judged by, and that must not be in the training rows."""

    suite: str
    item: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What steps may need beside their settings: the recipe's folder for relative paths, the evaluation items."""

    home: Path = Path()
    evaluation: Sequence[EvaluationItem] = ()
    seed: int = 0


class Step(ABC, Generic[SettingsT]):
    """What both kinds share. `name` is its field in the recipe's section `data.curate`."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the step would say something else of some row: what was remembered is then forgotten."""

    def __init__(self, settings: SettingsT, around: Surroundings) -> None:
        self.settings = settings
        self.around = around

    def fingerprint(self) -> str:
        """A hash of all that the step's word on a row depends on beside the row.

        A row step that reads a file or the evaluation items adds their content: `digest([super().fingerprint(), ...])`.
        """
        return digest([self.name, self.version, self.settings.model_dump(mode="json")])


class RowStep(Step[SettingsT]):
    """A step that looks at one row at a time."""

    @abstractmethod
    def look(self, row: Row) -> Finding:
        """What the step says of one row."""

    def look_at(self, rows: Sequence[Row]) -> list[Finding]:
        """The same for many rows, in order; a step that gains from arrays overrides it."""
        return [self.look(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a set step says of the row numbered `row`: a fate, or that it belongs `together` with another row.

    Rows that belong together are never divided between training and validation. A fate's `duplicate_of` is filled in
    from `kept`, the number of the row that stays in its place.
    """

    row: int
    fate: Fate | None = None
    kept: int | None = None
    together: int | None = None
    risk: float = 0.0
    note: str = ""


class Rows(Protocol):
    """The rows that are still kept, as a set step sees them. Numbers grow in the order of the input, with gaps."""

    def signatures(self) -> Iterator[tuple[int, bytes]]:
        """Number and signature of each row, in order. May be gone through more than once."""

    def row(self, number: int) -> Row:
        """One row; a look-up on disk, meant for the few that are compared in full."""

    def some(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Several rows, in the order of their numbers, which grow."""

    def rows(self) -> Iterator[tuple[int, Row]]:
        """All rows with their content, in order."""

    def __len__(self) -> int:
        """How many there are."""


class SetStep(Step[SettingsT]):
    """A step that compares rows."""

    def signature(self, row: Row) -> bytes:  # noqa: ARG002 - the default needs nothing of the row
        """What comparing needs of a row: small, since the signatures of all rows are held at once."""
        return b""

    def signatures(self, rows: Sequence[Row]) -> list[bytes]:
        """The same for many rows, in order; a step that gains from arrays overrides it."""
        return [self.signature(row) for row in rows]

    @abstractmethod
    def resolve(self, rows: Rows) -> Iterable[Resolution]:
        """What the rows are to each other. At most one fate a row; any number of `together`."""

    def report(self) -> Json:
        """What is worth knowing beside the fates, after `resolve`: it lands in `facts.json` under the step's name."""
        return {}


@dataclass
class Held:
    """Rows held in memory, for tests and small sets."""

    step: SetStep[Any]
    content: Sequence[Row]
    gone: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.content) - len(self.gone)

    def signatures(self) -> Iterator[tuple[int, bytes]]:
        """Number and signature of each row."""
        return ((i, self.step.signature(row)) for i, row in self.rows())

    def row(self, number: int) -> Row:
        """One row."""
        return self.content[number]

    def some(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Several rows."""
        return (self.content[i] for i in numbers)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """All rows."""
        return ((i, row) for i, row in enumerate(self.content) if i not in self.gone)
