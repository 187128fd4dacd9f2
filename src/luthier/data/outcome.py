"""The work on single rows, as a pure function from a shard of rows to a shard of outcomes.

An outcome depends on what the row holds and on the settings, never on where the row stands: so it can be worked out in
any process, and remembered by content. In order: read -> shape and roles -> row steps -> rendering -> signatures.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.artifact import digest
from luthier.data.packing import pack_content, pack_rows
from luthier.data.raw import RawRow, Unread, open_row
from luthier.data.rendering import USUAL, Wanted, letters, most_letters, render_content
from luthier.data.shapes import UNWANTED, Reading, convert, find_field, understand, unread
from luthier.data.split import place_of
from luthier.data.step import Content, Row, RowStep, SetStep, Surroundings, look_over
from luthier.data.steps import row_steps, set_steps
from luthier.errors import TemplateError
from luthier.recipe import Curate
from luthier.types import KEPT, Fate, Pair

PRIVATE = ("secrets", "pii")
"""Steps that have a say over what is written of unwanted rows, too."""
CODE = Path(__file__).parents[1]


@dataclass(slots=True)
class Outcome:
    """What became of one row by itself.

    Attributes:
        fate: `kept` so far, or what ended its way; `rule` is the part that said so.
        content: the example or pair as JSON, without its place; of rows that were not kept only unwanted ones have it.
            `mark` is the hash of what was kept.
        place: where the row's group falls when rows are divided, and the group's identity: 63 bits.
        tie: the same for what the rows' own field says, by which rows are kept together.
        moment: what the split by time compares.
        unread: the names of fields that nothing reads, one a line.
        pieces: its token rows, as `pack_rows` has them.
        signatures: one for each set step.
    """

    shape: str | None
    fate: Fate
    rule: str = ""
    risk: float = 0.0
    note: str = ""
    content: bytes = b""
    mark: bytes = b""
    place: int = 0
    tie: int | None = None
    moment: float | str | None = None
    unread: str = ""
    rating: float | None = None
    tokens: int | None = None
    trained: int | None = None
    longest: int | None = None
    pieces: bytes = b""
    signatures: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Workshop:
    """Everything that outcomes depend on beside the rows. It can be sent to another process.

    Attributes:
        curate: the recipe's section.
        around: what steps may look at.
        tokenizer: renders rows; None leaves them unrendered.
        context: the longest row the model can take, in tokens.
        group: a field of the rows by which they are kept together, for the split.
        moment: a field of the rows that says when they came about.
        wanted: what is wanted of rendering.
    """

    curate: Curate
    around: Surroundings
    tokenizer: Any = field(compare=False)
    context: int
    group: str | None = None
    moment: str | None = None
    wanted: Wanted = USUAL

    @cached_property
    def rows(self) -> list[RowStep[Any]]:
        """The row steps."""
        return row_steps(self.curate, self.around)

    @cached_property
    def sets(self) -> list[SetStep[Any]]:
        """The set steps."""
        return set_steps(self.curate, self.around)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("rows", "sets")}

    @cached_property
    def _most_letters(self) -> int | None:
        return most_letters(self.tokenizer, self.context)

    def fingerprint(self) -> str:
        """A hash of all that an outcome depends on beside the row: settings, steps, tokenizer and this code."""
        steps = [step.fingerprint() for step in (*self.rows, *self.sets)]
        split = [self.around.seed, self.group, self.moment, self.wanted]
        return digest([steps, split, self.context, _tokenizer_mark(self.tokenizer), _code_mark()])

    def work(self, shard: Sequence[RawRow | Unread], reading: Reading) -> list[Outcome]:
        """The outcome of each row of a shard, in order."""
        outcomes: list[Outcome] = []
        going: list[tuple[Outcome, Row]] = []
        documents: list[str | None] = []
        for item in shard:
            raw = open_row(item)
            shape, found, fields = understand(raw, reading)
            if isinstance(found, Fate):
                outcomes.append(Outcome(shape, found, rule="read" if raw.problem else "shape"))
                if found.name == UNWANTED:
                    outcomes[-1].content = self._failure(raw, reading)
                continue
            outcome = Outcome(shape, KEPT, tie=self._tie(raw), moment=self._moment(raw))
            if raw.document is None:  # the fields of a passage are ours
                outcome.unread = "\n".join(unread(fields, shape or "", reading, self.group, self.moment))
            outcomes.append(outcome)
            going.append((outcome, Row(found)))
            documents.append(raw.document)
        look_over([row for _, row in going])
        for (outcome, row), document in zip(going, documents, strict=True):
            outcome.place = self._place(document, row)
        going = self._short(going)  # first of all: steps take long over megabytes
        for step in self.rows:
            going = _step(step, going)
        self._finish(going)
        return outcomes

    def revise(self, content: Content) -> Outcome:
        """The outcome of content that a person has written: steps have no say, but it has to be rendered."""
        outcome = Outcome(None, KEPT)
        self._finish(self._short([(outcome, Row(content))]))
        return outcome

    def _failure(self, raw: RawRow, reading: Reading) -> bytes:
        """What an unwanted row holds, where secrets and personal data let it be written; nothing otherwise."""
        _, found = convert(raw, replace(reading, rows="ratings"))
        if isinstance(found, Fate):
            return b""
        going = [(Outcome(None, KEPT), Row(found))]
        for step in self.rows:
            if step.name in PRIVATE:
                going = _step(step, going)
        return pack_content(going[0][1].content) if going else b""

    def _finish(self, going: list[tuple[Outcome, Row]]) -> None:
        if self.tokenizer is not None:
            going = self._render(going)
        for outcome, row in going:
            outcome.content = pack_content(row.content)
            outcome.mark = hashlib.blake2b(outcome.content, digest_size=16).digest()
            outcome.rating = row.content.margin if isinstance(row.content, Pair) else row.content.rating
        made = [step.signatures([row for _, row in going]) for step in self.sets]
        for (outcome, _), *signatures in zip(going, *made, strict=True):
            outcome.signatures = tuple(signatures)

    def _place(self, document: str | None, row: Row) -> int:
        """Passages of a document are on the document's place, other rows on the place of what is asked."""
        group = row.group if document is None else f"document\n{document}"
        return place_of(group, self.around.seed)

    def _tie(self, raw: RawRow) -> int | None:
        value = find_field(raw.value or {}, self.group) if self.group else None
        return None if value is None else place_of(json.dumps(value, default=str), self.around.seed)

    def _moment(self, raw: RawRow) -> float | str | None:
        value = find_field(raw.value or {}, self.moment) if self.moment else None
        return value if isinstance(value, int | float) or value is None else str(value)

    def _render(self, going: Sequence[tuple[Outcome, Row]]) -> list[tuple[Outcome, Row]]:
        rendered = render_content([row.content for _, row in going], self.tokenizer, self.wanted)
        for (outcome, _), rows in zip(going, rendered, strict=True):
            if isinstance(rows, TemplateError):
                outcome.fate, outcome.rule = Fate("template", rows.what), "render"
                continue
            lengths = [len(row.ids) for row in rows]
            outcome.tokens, outcome.longest = sum(lengths), max(lengths)
            outcome.trained = sum(row.trained.count(True) for row in rows)
            outcome.pieces = pack_rows(rows)
            if not outcome.trained:
                reason = f"none of its {outcome.tokens} tokens would be trained"
                outcome.fate, outcome.rule = Fate("nothing_trained", reason), "render"
        return [(outcome, row) for outcome, row in going if outcome.fate.kept]

    def _short(self, going: Sequence[tuple[Outcome, Row]]) -> list[tuple[Outcome, Row]]:
        """Without those that are too long for certain; not even tokenising is needed to know."""
        if self.tokenizer is None or not self._most_letters:
            return list(going)
        for outcome, row in going:
            size = letters(row.content)
            if size > self._most_letters and not self.wanted.splits(row.content):
                reason = f"{size:,} letters, which is more than {self.context} tokens, the limit"
                outcome.fate, outcome.rule = Fate("too_long", reason), "length"
        return [(outcome, row) for outcome, row in going if outcome.fate.kept]


def _step(step: RowStep[Any], going: Sequence[tuple[Outcome, Row]]) -> list[tuple[Outcome, Row]]:
    """What is left after a step; a changed row goes on as the change has it."""
    left: list[tuple[Outcome, Row]] = []
    for (outcome, row), finding in zip(going, step.look_at([row for _, row in going]), strict=True):
        if finding.note or finding.changed is not None:
            words = f"{step.name}: {finding.note}" if finding.note else step.name
            outcome.note = f"{outcome.note}; {words}" if outcome.note else words
        outcome.risk = max(outcome.risk, finding.risk)
        if finding.fate is not None:
            outcome.fate, outcome.rule = finding.fate, step.name
        else:
            left.append((outcome, row if finding.changed is None else Row(finding.changed)))
    return left


def _tokenizer_mark(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    inner, special = tokenizer.backend_tokenizer.to_str(), [tokenizer.bos_token, tokenizer.eos_token]
    return digest([inner, tokenizer.chat_template, special])


def _code_mark() -> str:
    """A hash of the code that works on rows: what another version worked out is not taken for this one's."""
    found = hashlib.sha256()
    for room in ("data", "text"):
        for path in sorted((CODE / room).glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()
