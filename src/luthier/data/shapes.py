"""Recognising how a row is laid out, and turning it into a conversation, a pair or a plain text.

A shape is one function from a row to what it holds and one line in `SHAPES`; the first line whose keys a row has is
taken. Ratings and edits that people gave to answers are read in every shape. Content is kept byte for byte. A row that
is no good gets a fate that names the key or the turn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from luthier.data.advice import advice, misread
from luthier.data.asking import (
    BESIDE_KEYS,
    PASSAGE_KEYS,
    PROMPT_KEYS,
    SYSTEM_KEYS,
    read_answer,
    read_asked,
    with_system,
)
from luthier.data.choices import (
    CHOICE_KEYS,
    GOLD_KEYS,
    LETTERS,
    QUESTION_KEYS,
    read_choices,
    read_cloze,
    read_instances,
)
from luthier.data.feedback import EDIT_KEYS, RATING_KEYS, read_edit, read_rating
from luthier.data.preferences import PAIR_KEYS, Preference, compare, read_preference
from luthier.data.raw import RawRow
from luthier.data.turns import (
    TOOL_KEYS,
    RowError,
    check_turns,
    first_key,
    is_turns,
    need_text,
    quote,
    read_content,
    read_tools,
    read_turns,
)
from luthier.recipe.objective import RowKind
from luthier.types import NO_ANSWER, Example, Fate, Json, Message, Pair

CONVERSATION_KEYS = ("conversations", "conversation")
ALPACA_ANSWERS, ANSWER_KEYS = ("output", "response"), ("answer", "answers")
COMPLETION_KEYS = (
    *("completion", "response", "output", "answer", "target", "targets"),
    *("canonical_solution", "ground_truth", "solution", "answers"),
)
SHOWN_KEYS = 8
ALWAYS = frozenset((*SYSTEM_KEYS, *RATING_KEYS, *EDIT_KEYS, *TOOL_KEYS))
"""What is read in rows of every shape but plain text."""
TURN_FEEDBACK = frozenset((*RATING_KEYS, *EDIT_KEYS))

Found = list[Message] | str | Preference


class Layout(NamedTuple):
    """A shape: the keys a row must have (one of each group), what reads it, and the keys that it reads besides."""

    keys: tuple[tuple[str, ...], ...]
    read: Callable[[Json], Found]
    more: tuple[str, ...] = ()

    def fits(self, keys: frozenset[str]) -> bool:
        """True when a row with these keys has what is needed."""
        return all(not keys.isdisjoint(names) for names in self.keys)


UNWANTED = "unwanted"
"""The fate of rows whose answer people did not want, where the objective imitates answers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows of a source are read.

    Attributes:
        shape: a name in `SHAPES`, or `auto` to recognise it row by row.
        system: a system message for conversations without one.
        fields: our name of a field -> the name it has in the rows (`a.b` for one in an object), or None: not read.
        scale: the lowest and the highest rating, where ratings are numbers on a scale.
        rows: what the objective learns from.
    """

    shape: str = "auto"
    system: str | None = None
    fields: Mapping[str, str | None] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    rows: RowKind = "examples"


def convert(row: RawRow, reading: Reading = Reading()) -> tuple[str | None, Example | Pair | Fate]:
    """The shape of a row and what it holds, or the fate that keeps it out."""
    understood = understand(row, reading)
    return understood.shape, understood.found


class Understood(NamedTuple):
    """A row's shape, what it holds or its fate, and its fields under our names."""

    shape: str | None
    found: Example | Pair | Fate
    fields: Json


def understand(row: RawRow, reading: Reading) -> Understood:
    """The same, with the fields that it was read from."""
    if row.problem or row.value is None:
        return Understood(None, row.problem or Fate("not_object", "the row is empty"), {})
    name: str | None = None
    value = row.value
    try:
        value = _mapped(row.value, reading.fields)
        keys = _held(value)
        if reading.shape == "auto":
            name, value, keys = _recognised(value, keys, reading)
        else:
            name = reading.shape
        if name is None or not SHAPES[name].fits(keys):
            return Understood(None, _unknown(value, name, reading.fields), value)
        if reading.shape == "auto" and (reason := misread(value, name, reading.fields)):
            return Understood(name, Fate("unknown_shape", reason), value)
        return Understood(name, _content(row, value, SHAPES[name].read(value), reading), value)
    except RowError as error:
        return Understood(name, error.fate, value)


def _recognised(value: Json, keys: frozenset[str], reading: Reading) -> tuple[str | None, Json, frozenset[str]]:
    given = frozenset(ours for ours, theirs in reading.fields.items() if theirs is not None)
    name = recognise(keys, given)
    if name is None and not reading.fields:  # Question and Answer, as people head their tables
        lowered = {key.lower().strip().replace(" ", "_"): held for key, held in value.items()}
        if len(lowered) == len(value) and (name := recognise(_held(lowered))):
            return name, lowered, _held(lowered)
    if name is None and SHAPES["prompt"].fits(keys) and (reading.rows == "prompts" or _bare(value, reading)):
        name = "prompt"
    return name, value, keys


def _held(row: Json) -> frozenset[str]:
    """The keys of a row that have a value; null counts as absent, as tables export it."""
    return frozenset(key for key, value in row.items() if value is not None)


def unread(fields: Json, shape: str, reading: Reading, *others: str | None) -> list[str]:
    """The fields of a row that nothing reads, by their names: what a person should know before they are missed.

    Args:
        fields: the row's, under our names.
        shape: the row's.
        reading: how its source is read.
        others: fields that are read for another reason, such as the one that the split goes by.
    """
    moved = tuple(theirs.split(".")[0] for theirs in reading.fields.values() if theirs)
    left = _left_over(_held(fields), shape, moved + others)
    return [name for name in left if fields[name] not in (None, "", [], {})]


@lru_cache(maxsize=1024)
def _left_over(keys: frozenset[str], shape: str, others: tuple[str | None, ...]) -> tuple[str, ...]:
    """The keys that a shape does not read, whatever stands in them."""
    layout = SHAPES[shape]
    one_of_each = {next((name for name in group if name in keys), None) for group in layout.keys}
    read = one_of_each | {*layout.more, *others} | (set() if shape == "text" else ALWAYS)
    return tuple(sorted(keys - read))


@lru_cache(maxsize=1024)  # the rows of a source have few sets of keys
def recognise(keys: frozenset[str], fields: frozenset[str] = frozenset()) -> str | None:
    """The name of the first shape whose keys a row has; of those that use a mapped field where fields are mapped.

    Args:
        keys: the keys of the row that have a value; null counts as absent, as tables export it.
        fields: our names of the fields that are mapped.
    """
    fitting = [name for name, layout in SHAPES.items() if layout.fits(keys) and name != "prompt"]
    named = [name for name in fitting if fields & {key for group in SHAPES[name].keys for key in group}]
    return next(iter(named or fitting), None)


def _bare(row: Json, reading: Reading) -> bool:
    """Whether nothing in a row can be the answer to its prompt, whatever it is called."""
    return not reading.fields and sum(isinstance(value, str | list | dict) for value in row.values()) == 1


def _mapped(row: Json, fields: Mapping[str, str | None]) -> Json:
    """The row under our names of its fields."""
    if not fields:
        return row
    named = {ours: find_field(row, theirs) for ours, theirs in fields.items() if theirs is not None}
    moved = {theirs for theirs in fields.values() if theirs is not None}
    return {k: v for k, v in row.items() if k not in fields and k not in moved} | named


def find_field(row: Json, path: str) -> Any:
    """The value of a field; `a.b` is the field `b` in the object `a`."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _content(row: RawRow, value: Json, found: Found, reading: Reading) -> Example | Pair:
    """What was found, as the kind of rows that the objective learns from."""
    if isinstance(found, str):
        if reading.rows not in ("examples", "prompts"):
            raise _lacks(reading.rows, "plain text")
        need_text(found, "empty_turn", "the text is empty")
        return Example(row.source, row.line, text=found)
    tools = read_tools(value)
    if isinstance(found, Preference):
        return _of_pair(row, found, tools, reading)
    found = _with_ratings(value, with_system(value, found), reading.scale)
    asks = reading.rows == "prompts"
    check_turns(found, answered=not asks)
    if asks and found[-1].role != "assistant":
        found = [*found, NO_ANSWER]
    turns = _led(found, reading.system)
    rating, edit = read_rating(value, reading.scale), read_edit(value)
    if reading.rows == "pairs":
        if edit is None:
            raise _lacks("pairs", "one answer, not edited")
        edited = [*turns[:-1], replace(turns[-1], content=edit)]
        return _of_pair(row, compare(edited, turns), tools, reading)
    if edit is not None:
        turns, rating = [*turns[:-1], replace(turns[-1], content=edit)], 1.0
    if reading.rows == "ratings" and rating is None:
        raise _lacks("ratings", "an answer that nobody rated")
    if reading.rows in ("examples", "prompts") and rating is not None and rating < 0:
        raise RowError(UNWANTED, f"its answer was rated {rating:g}: a failure to learn from, not one to imitate")
    return Example(row.source, row.line, tuple(turns), tools=tools, rating=rating)


def _of_pair(row: RawRow, found: Preference, tools: tuple[Json, ...], reading: Reading) -> Example | Pair:
    prompt = tuple(_led(found.prompt, reading.system))
    if reading.rows == "pairs":
        return Pair(row.source, row.line, prompt, found.chosen, found.rejected, tools, found.margin)
    if reading.rows == "ratings":
        raise _lacks("ratings", "a pair of answers")
    return Example(row.source, row.line, prompt + found.chosen, tools=tools)  # what is preferred is the demonstration


def _lacks(rows: RowKind, held: str) -> RowError:
    needs = {
        "pairs": "compares a chosen with a rejected answer",
        "ratings": "learns from rated answers",
        "examples": "learns from answers",
        "prompts": "answers prompts",
    }
    return RowError(f"no_{rows.removesuffix('s')}", f"the objective {needs[rows]}, and the row holds {held}")


def _led(turns: Sequence[Message], system: str | None) -> list[Message]:
    if system and (not turns or turns[0].role != "system"):
        return [Message("system", system), *turns]
    return list(turns)


def _with_ratings(row: Json, turns: list[Message], scale: tuple[float, float] | None) -> list[Message]:
    """The turns with what was said of single ones: an edit replaces the answer, an unwanted one is not trained."""
    given = next((row[key] for key in ("messages", *CONVERSATION_KEYS) if is_turns(row.get(key))), None)
    if given is None or not any(isinstance(turn, dict) and turn.keys() & TURN_FEEDBACK for turn in given):
        return turns
    led = len(turns) - len(given)  # a system turn of the row's own in front
    heard = turns[:led]
    for turn, raw in zip(turns[led:], given, strict=True):
        edit, rating = read_edit(raw), read_rating(raw, scale)
        if turn.role != "assistant":
            heard.append(turn)
        elif edit is not None:
            heard.append(replace(turn, content=edit))
        else:
            heard.append(replace(turn, train=False) if rating is not None and rating < 0 else turn)
    return heard


def _unknown(row: Json, forced: str | None, fields: Mapping[str, str | None]) -> Fate:
    absent = [f"'{theirs}' (for {ours})" for ours, theirs in fields.items() if theirs and row.get(ours) is None]
    if absent:
        return Fate("unknown_shape", f"the row has no {' and no '.join(absent)}, which data.sources.N.fields names")
    seen = [quote(key) for _, key in zip(range(SHOWN_KEYS), row, strict=False)]
    more = f" and {len(row) - SHOWN_KEYS} more" if len(row) > SHOWN_KEYS else ""
    keys = f"keys: {', '.join(seen)}{more}" if row else "the object is empty"
    if forced is None:
        return Fate("unknown_shape", f"no known shape; {keys}{advice(row)}")
    wanted = " and ".join(" or ".join(f"'{name}'" for name in names) for names in SHAPES[forced].keys)
    return Fate("unknown_shape", f"not the shape '{forced}', which needs {wanted}; {keys}")


def _messages(row: Json) -> list[Message]:
    return read_turns(row["messages"], "messages")


def _sharegpt(row: Json) -> list[Message]:
    key = first_key(row, CONVERSATION_KEYS) or CONVERSATION_KEYS[0]
    return read_turns(row[key], key)


def _alpaca(row: Json) -> list[Message]:
    key = first_key(row, ALPACA_ANSWERS) or ALPACA_ANSWERS[0]
    return [*read_asked(row, "instruction"), *read_answer(row[key], key)]


def _prompt_completion(row: Json) -> list[Message]:
    key = first_key(row, COMPLETION_KEYS) or COMPLETION_KEYS[0]
    return [*_prompt(row), *read_answer(row[key], key)]


def _prompt(row: Json) -> list[Message]:
    """A prompt without an answer: text, or turns. Where a row may have one, such a row lacks it."""
    return read_asked(row, first_key(row, PROMPT_KEYS) or PROMPT_KEYS[0])


def _question_answer(row: Json) -> list[Message]:
    key = first_key(row, ANSWER_KEYS) or ANSWER_KEYS[0]
    return [*read_asked(row, "question"), *read_answer(row[key], key)]


def _text(row: Json) -> str:
    return read_content(row["text"], "text")


SHAPES: dict[str, Layout] = {
    "preference": Layout((("chosen",), ("rejected",)), read_preference, PAIR_KEYS),
    "messages": Layout((("messages",),), _messages),
    "sharegpt": Layout((CONVERSATION_KEYS,), _sharegpt),
    "alpaca": Layout((("instruction",), ALPACA_ANSWERS), _alpaca, BESIDE_KEYS),
    "instances": Layout((("instruction",), ("instances",)), read_instances),
    "choices": Layout((QUESTION_KEYS, CHOICE_KEYS, GOLD_KEYS), read_choices, (*PASSAGE_KEYS, *LETTERS)),
    "cloze": Layout((("context_options",), ("continuation",), ("gold",)), read_cloze),
    "question_answer": Layout((("question",), ANSWER_KEYS), _question_answer, BESIDE_KEYS),
    "prompt_completion": Layout((PROMPT_KEYS, COMPLETION_KEYS), _prompt_completion, BESIDE_KEYS),
    "prompt": Layout((PROMPT_KEYS,), _prompt, BESIDE_KEYS),
    "text": Layout((("text",),), _text),
}
