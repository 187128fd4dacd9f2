"""Section `data`: which rows, and what is asked of them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from luthier.recipe.curate import Curate
from luthier.recipe.review import Review
from luthier.recipe.section import Section

Shape = Literal[
    "auto", "preference", "messages", "sharegpt", "alpaca", "instances", "choices", "cloze", "question_answer",
    "prompt_completion", "prompt", "text",
]  # fmt: skip
FieldName = Literal[
    "messages", "conversations", "system", "instruction", "input", "output", "history", "prompt", "completion",
    "question", "answer", "choices", "instances", "text", "chosen", "rejected", "margin", "tools", "rating", "edited",
]  # fmt: skip


class Source(Section):
    """Rows from one place: a file, a folder of files, or a data set of the hub."""

    path: str
    """A file (.jsonl, .json, .csv, .tsv, .parquet, the first four also as .gz or .zst; documents: .txt, .md, .html,
    .pdf, .docx), a folder of such files, or `hub:owner/name` for a data set of the hub. A relative path is looked for
    beside the recipe first, then in the working folder."""
    shape: Shape = "auto"
    """How the rows are laid out; recognised row by row unless given."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """How many times an epoch the rows are seen. Of a weight such as 2.5 half of the rows come twice and half three
    times; below 1 that share of the rows is drawn and the others are left out, chosen by a hash of the content."""
    passage: Annotated[int, Field(ge=100)] = 4_000
    """The most letters of a passage, into which documents are divided between paragraphs."""
    licence: str | None = None
    """Under which licence the rows are, for the data card."""
    fields: dict[FieldName, str | None] = Field(default_factory=dict)
    """Our name of a field -> the name it has in the rows, such as `{prompt: Frage, completion: Antwort}`; `a.b` is a
    field in an object, and null says that a field of that name is not read."""
    scale: tuple[float, float] | None = None
    """The lowest and the highest rating, such as `[1, 5]`, where people rated answers with numbers. Thumbs, yes and no
    and numbers from -1 to 1 are understood without."""

    @field_validator("scale")
    @classmethod
    def _low_first(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and not scale[0] < scale[1]:
            raise ValueError("give the lowest rating first, then the highest: [1, 5]")
        return scale


class Split(Section):
    """How rows are divided. Rows with the same prompt, passages of one document and near duplicates stay together."""

    validation: Annotated[float, Field(gt=0, lt=0.9)] | None = None
    """Share held out for validation, chosen by a hash of the content: adding rows moves none of the others. When not
    given: 10 % below 2,000 rows and 5 % above, and more of few rows, so that 100 rows or 20 % are held out."""
    test: Annotated[float, Field(gt=0, lt=0.9)] | None = None
    """Share held out for a test set of its own, which training never looks at."""
    by: str | None = None
    """A field of the rows, such as an author or a session: rows with the same value stay together, too."""
    time: str | None = None
    """A field of the rows that says when they came about: the latest are held out, in place of a hash's choice."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """Divide all rows into so many folds of about equal size, for few rows (under 500): run the recipe once with each
    of them held out, and read the mean and the spread. Groups stay whole, every source is spread over all folds, and
    the folds are the same whichever is held out."""
    fold: Annotated[int, Field(ge=1)] | None = None
    """Which fold is held out for validation, from 1 to `folds`; the first when not given."""
    twins: Annotated[float, Field(gt=0.2, le=1)] = 0.8
    """From which Jaccard index of five-word shingles on two rows are twins. No twins stand on both sides: after the
    division it is proved, and a division that cannot keep them together stops."""

    @property
    def held(self) -> int:
        """The number of the fold that is held out."""
        return self.fold or 1

    @model_validator(mode="after")
    def _folds_take_effect(self) -> "Split":
        if self.folds is None:
            if self.fold is not None:
                raise ValueError("data.split.fold has no effect without data.split.folds: say into how many")
            return self
        idle = [name for name in ("validation", "test", "time") if getattr(self, name) is not None]
        if idle:
            raise ValueError(
                f"data.split.{idle[0]} has no effect with data.split.folds, which divides all rows evenly by a hash: "
                "leave one of them out"
            )
        if self.held > self.folds:
            raise ValueError(f"data.split.fold is {self.fold}, and there are only {self.folds} folds, from 1 on")
        return self

    @model_validator(mode="after")
    def _something_is_left(self) -> "Split":
        if (self.validation or 0.2) + (self.test or 0) >= 0.95:
            raise ValueError("data.split: validation and test together must leave something to train on")
        return self


class Replay(Section):
    """Rows of a general kind, mixed into training so that the model forgets less."""

    path: str
    """A .jsonl or .json file of rows, or `ukulele` for two thousand rows like those the bundled base was made from."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the trained tokens that comes from these rows."""


class Data(Section):
    """The rows to learn from."""

    sources: Annotated[list[Source], Field(min_length=1)]
    """The files to read, in order."""
    system: str | None = None
    """A system message for conversations that have none."""
    curate: Curate = Curate()
    """What rows have to pass."""
    split: Split = Split()
    """Training and validation."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Longest row in tokens; the model's context when not given. Rows are never cut."""
    too_long: Literal["drop", "error", "split"] = "drop"
    """What to do with a longer row: `drop` gives it the fate `too_long`, `error` stops, `split` divides a plain text
    into several rows and drops a conversation, which cannot be divided."""
    train: Literal["all", "last"] = "all"
    """Which turns of a conversation are learned: `all` of the assistant's or only the `last`. A turn's own `train` or
    `weight` (0 or 1) in the data comes first."""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Stop when more than this share of the rows is unusable. Duplicates do not count."""
    review: Review | None = None
    """A person looks at rows before anything is trained; nobody has to when not given."""
    replay: Replay | None = None
    """General rows mixed into training."""
