"""Section `data.curate`: the steps of curation, one field a step. `null` turns a step off."""

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.section import Section

Near = Literal["drop", "group"]
Action = Literal["drop", "review"]
Share = Annotated[float, Field(ge=0, le=1)]


class Duplicates(Section):
    """Rows that say the same as an earlier one, white space and Unicode form apart."""


class NearDuplicates(Section):
    """Rows of which most words stand in the same order in another row.

    `drop` keeps the best row of a cluster: the highest rating, then the longest, then the first. `group` keeps all of
    them on one side of the split, so that nothing is validated that was trained on.
    """

    threshold: Annotated[float, Field(gt=0.2, le=1)] = 0.75
    """From which Jaccard index of five-word shingles on two rows are near duplicates. Texts under twenty words are
    compared by five-letter shingles."""
    documents: Near = "drop"
    """What becomes of near duplicates among plain texts."""
    conversations: Near = "group"
    """What becomes of near duplicates among conversations and pairs, where small changes may be the point."""


class Structure(Section):
    """Answers that are broken inside. Empty turns, turns out of order and unmatched tool calls are always refused."""

    broken_json: Action = "drop"
    """An answer that begins like a JSON object or list of them and is none."""
    open_fences: Action = "review"
    """A code block that is never closed, or one marked `json` that does not parse."""
    unknown_tools: Action = "drop"
    """A call of a tool that is not among those the row defines."""


class Boilerplate(Section):
    """Phrases that nobody wants to be learned without having decided so."""

    phrases: Action = "review"
    """An answer that speaks as another assistant ("as an AI language model"), or that shows where its text was copied
    from ("regenerate response")."""
    refusals: Action = "review"
    """An answer that refuses. Looked for at its beginning and in its first 400 letters."""
    placeholders: Action = "review"
    """Something that was to be filled in: `[insert name]`, `lorem ipsum`."""
    further: list[str] = Field(default_factory=list)
    """Further phrases, in any case of letters; rows with one of them meet what `phrases` says."""


class Length(Section):
    """Rows that are too short or too long to learn from, in words."""

    prompt_words: tuple[int, int | None] = (1, None)
    """Least and most words of the first user turn."""
    answer_words: tuple[int, int | None] = (1, None)
    """Least and most words of each answer."""
    document_words: tuple[int, int | None] = (1, None)
    """Least and most words of a plain text."""


class SemanticDuplicates(Section):
    """Rows that mean the same in other words, by an encoder's vectors."""

    encoder: str
    """A folder or hub id of an encoder in transformers' format, such as sentence-transformers/all-MiniLM-L6-v2."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.95
    """From which cosine of two vectors on `action` is done."""
    action: Near = "drop"
    """`drop` keeps the best row of a cluster; `group` keeps all of them, on one side of the split."""
    review_from: Annotated[float, Field(gt=0, le=1)] = 0.85
    """From which cosine on the lesser row is sent to review."""


class Contamination(Section):
    """Rows that hold an evaluation item: what is measured on it afterwards is memory.

    Thirteen words in a row of an item, or eight that cover half of it, prove a copy. A paraphrase shares neither; it is
    found by its words and numbers (TF-IDF), or by an encoder.
    """

    verbatim: Action = "drop"
    """What becomes of rows with a copy."""
    similar: Literal["off", "review", "drop"] = "review"
    """What becomes of rows that say nearly the same as an item."""
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """From which similarity on. When not given, the one that 1 % of a suite's own items reach with another item, but at
    least 0.5 and at most 0.65."""
    encoder: str | None = None
    """A folder or hub id of an encoder that finds further paraphrases; none when not given."""
    encoder_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """From which cosine of two embeddings on a row is similar to an item."""


class LengthOutliers(Section):
    """Answers far longer or shorter than the others of their source: they are sent to review."""

    deviations: Annotated[float, Field(gt=0)] = 6.0
    """How many robust deviations of the logarithm of the length are far; one is 1.4826 times the median deviation."""
    least_rows: Annotated[int, Field(ge=10)] = 50
    """Sources with fewer rows are not judged."""


PersonalKind = Literal[
    "email", "phone", "card", "iban", "ipv4", "ipv6", "mac", "us_ssn", "uk_nino", "es_dni", "br_cpf", "cn_id", "fr_nir"
]


class Pii(Section):
    """Personal data that its form gives away. Names of persons are not found.

    What has a checksum (cards, IBAN, most numbers of persons) must meet it.
    """

    action: Literal["review", "replace", "drop"] = "review"
    """`review` sends the row to review and says which kinds it holds; `replace` puts `<EMAIL_1>` and the like in their
    place, the same for the same value all through a row; `drop` refuses the row."""
    kinds: list[PersonalKind] | None = None
    """The kinds to look for; all when not given."""


class Secrets(Section):
    """Keys and passwords. A reason names the kind and never shows the value."""

    known: Literal["review", "replace", "drop"] = "drop"
    """Keys of known form, blocks of private keys, addresses with a password in them."""
    guessed: Literal["off", "review", "replace", "drop"] = "review"
    """A random-looking value that is assigned to a name such as `api_key` or `password`."""


class Language(Section):
    """Rows in other languages than those asked for. Code and texts of a few words are in none and pass."""

    keep: Annotated[list[str], Field(min_length=1)]
    """The languages that stay, as ISO 639-1 codes: `[en, de]`."""
    margin: Share = 0.3
    """How much likelier another language must be than every one of these. Short texts are often unclear."""
    action: Action = "drop"
    """What becomes of rows in another language."""


class Profanity(Section):
    """Swearing and slurs, by a small classifier that comes with the package. Its score is no verdict on safety."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """From which probability on a row is meant."""
    action: Action = "review"
    """What becomes of such rows."""
    classifier: str | None = None
    """A folder or hub id of another text classifier in transformers' format, asked in place of the small one."""
    labels: list[str] | None = None
    """Labels of that classifier whose probabilities count, the highest of them; all but the first when not given."""


Repeated = Literal[
    "duplicate_lines",
    "duplicate_line_letters",
    "duplicate_paragraphs",
    "duplicate_paragraph_letters",
    "top_2",
    "top_3",
    "top_4",
    "duplicate_5",
    "duplicate_6",
    "duplicate_7",
    "duplicate_8",
    "duplicate_9",
    "duplicate_10",
]


class Repetition(Section):
    """Texts that repeat themselves: the limits of Gopher (Rae et al. 2021, table A1)."""

    documents: Action = "review"
    """What becomes of plain texts that repeat themselves."""
    answers: Action = "review"
    """What becomes of conversations with such an answer."""
    least_words: Annotated[int, Field(ge=1)] = 100
    """Shorter texts are not judged: a few words repeat by nature."""
    limits: dict[Repeated, Share] = Field(default_factory=dict)
    """Limits other than the paper's, by name: `top_2` is the share of letters in the most frequent two words in a row,
    `duplicate_5` that in five words in a row which stand there more than once."""


class Gopher(Section):
    """Quality rules of Gopher (Rae et al. 2021, section A.1), for plain texts; they refuse most good short answers."""

    words: tuple[int, int] = (50, 100_000)
    """Least and most words."""
    word_length: tuple[float, float] = (3, 10)
    """Least and most letters of a word, on average."""
    signs: Share = 0.1
    """Most number signs a word, and most ellipses a word."""
    bullet_lines: Share = 0.9
    """Largest share of lines that begin with a bullet."""
    ellipsis_lines: Share = 0.3
    """Largest share of lines that end with an ellipsis."""
    words_with_letter: Share = 0.8
    """Least share of words with a letter in them."""
    stop_words: Annotated[int, Field(ge=0, le=8)] = 2
    """How many of "the be to of and that have with" must be there; 0 for texts in other languages than English."""


class C4(Section):
    """Rules of C4 (Raffel et al. 2020, section 2.2), for plain texts: lines are taken out, then texts refused."""

    remove_lines: bool = True
    """Take out lines that end without punctuation, are too short, or speak of Javascript, cookies or terms of use."""
    line_words: Annotated[int, Field(ge=0)] = 3
    """Least words of a line that stays."""
    sentences: Annotated[int, Field(ge=0)] = 5
    """Least sentences of what is left."""
    braces: bool = True
    """Refuse texts with a curly bracket, which in web pages means code."""


class FineWeb(Section):
    """The rules that FineWeb added (Penedo et al. 2024, section 3.6), for plain texts."""

    ended_lines: Share = 0.12
    """Least share of lines that end with punctuation."""
    short_lines: Share = 0.67
    """Largest share of lines with at most thirty letters."""
    duplicate_line_letters: Share = 0.01
    """Largest share of letters in lines that stood before."""
    lines_per_word: Annotated[float, Field(ge=0)] = 0.3
    """Most line ends a word."""


class Curate(Section):
    """What rows have to pass. Steps that look at one row come first, those that compare rows after rendering."""

    structure: Structure | None = Structure()
    """Broken JSON, code blocks and tool calls in conversations."""
    length: Length | None = None
    """Least and most words."""
    boilerplate: Boilerplate | None = Boilerplate()
    """Phrases of other assistants, refusals, leftovers of templates."""
    secrets: Secrets | None = Secrets()
    """Keys and passwords."""
    pii: Pii | None = Pii()
    """Personal data."""
    language: Language | None = None
    """Languages; off until those that stay are named."""
    profanity: Profanity | None = Profanity()
    """Swearing and slurs."""
    repetition: Repetition | None = Repetition()
    """Texts that repeat themselves."""
    gopher: Gopher | None = None
    """Gopher's quality rules, for plain texts only."""
    c4: C4 | None = None
    """C4's rules, for plain texts only."""
    fineweb: FineWeb | None = None
    """FineWeb's rules, for plain texts only."""
    duplicates: Duplicates | None = Duplicates()
    """Exact duplicates; the first row stays."""
    near_duplicates: NearDuplicates | None = NearDuplicates()
    """Near duplicates."""
    semantic_duplicates: SemanticDuplicates | None = None
    """Rows that mean the same; off until an encoder is named."""
    contamination: Contamination | None = Contamination()
    """Evaluation items among the rows."""
    length_outliers: LengthOutliers | None = LengthOutliers()
    """Answers of unusual length."""
