"""Recognising how a row is laid out, and turning it into a conversation, a pair or a plain text.

A shape is one function from a row to what it holds and one line in `SHAPES`; the first line whose keys a row has is
taken. Ratings and edits that people gave to answers are read in every shape. Content is kept byte for byte. A row that
is no good gets a fate that names the key or the turn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from luthier.data.choices import (
    CHOICE_KEYS,
    GOLD_KEYS,
    QUESTION_KEYS,
    read_choices,
    read_cloze,
    read_instances,
)
from luthier.data.feedback import EDIT_KEYS, RATING_KEYS, read_edit, read_rating
from luthier.data.preferences import Preference, compare, read_preference
from luthier.data.raw import RawRow
from luthier.data.turns import (
    ROLE_KEYS,
    RowError,
    check_turns,
    first_key,
    need_text,
    quote,
    read_content,
    read_tools,
    read_turns,
    wrong,
)
from luthier.recipe.objective import RowKind
from luthier.types import NO_ANSWER, Example, Fate, Json, Message, Pair, Role

PROMPT_KEYS, COMPLETION_KEYS = (
    ("prompt", "question", "query", "input"),
    (
        *("completion", "response", "output", "answer"),
        *("canonical_solution", "ground_truth", "solution"),
    ),
)
INPUT_KEYS = ("input", "context")
SHOWN_KEYS = 8
TURN_FEEDBACK = frozenset((*RATING_KEYS, *EDIT_KEYS))

Found = list[Message] | str | Preference


class Layout(NamedTuple):
    """A shape: the keys a row must have (one of each group), and what reads it."""

    keys: tuple[tuple[str, ...], ...]
    read: Callable[[Json], Found]

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
    if row.problem or row.value is None:
        return None, row.problem or Fate("not_object", "the row is empty")
    name: str | None = None
    try:
        value = _mapped(row.value, reading.fields)
        keys = frozenset(key for key, held in value.items() if held is not None)
        given = frozenset(ours for ours, theirs in reading.fields.items() if theirs is not None)
        name = recognise(keys, given) if reading.shape == "auto" else reading.shape
        if name is None and SHAPES["prompt"].fits(keys) and (reading.rows == "prompts" or _bare(value, reading)):
            name = "prompt"
        if name is None or not SHAPES[name].fits(keys):
            return None, _unknown(value, name, reading.fields)
        return name, _content(row, value, SHAPES[name].read(value), reading)
    except RowError as error:
        return name, error.fate


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
    found = _with_ratings(value, found, reading.scale)
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
    given = next((row[key] for key in ("messages", "conversations") if isinstance(row.get(key), list)), None)
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
        return Fate("unknown_shape", f"no known shape; {keys}{_advice(row)}")
    wanted = " and ".join(" or ".join(f"'{name}'" for name in names) for names in SHAPES[forced].keys)
    return Fate("unknown_shape", f"not the shape '{forced}', which needs {wanted}; {keys}")


def _advice(row: Json) -> str:
    """The field map that would read a row of no known shape, as far as its longest text tells."""
    texts = sorted((key for key, value in row.items() if isinstance(value, str) and value), key=lambda k: -len(row[k]))
    if not texts:
        return ""
    if (asked := first_key(row, PROMPT_KEYS)) and len(texts) > 1:
        other = next(key for key in texts if key != asked)
        return f"; if '{other}' answers '{asked}', say fields: {{completion: {other}}} beside the source's path"
    return f"; to learn '{texts[0]}' as plain text say fields: {{text: {texts[0]}}} beside the source's path"


def _with_system(row: Json, turns: list[Message]) -> list[Message]:
    """Put the row's own system text in front. A blank one means none: exports fill the column for every row."""
    text = read_content(row["system"], "system") if row.get("system") is not None else ""
    if not text.strip() or (turns and turns[0].role == "system"):
        return turns
    return [Message("system", text), *turns]


def _messages(row: Json) -> list[Message]:
    return _with_system(row, read_turns(row["messages"], "messages"))


def _sharegpt(row: Json) -> list[Message]:
    return _with_system(row, read_turns(row["conversations"], "conversations"))


def _alpaca(row: Json) -> list[Message]:
    turns: list[Message] = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise wrong("history", history, "a list of pairs")
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("wrong_type", f"'history[{i}]' is not a pair of question and answer")
        turns.append(Message("user", read_content(pair[0], f"history[{i}][0]")))
        turns.append(Message("assistant", read_content(pair[1], f"history[{i}][1]")))
    question = read_content(row["instruction"], "instruction")
    key = first_key(row, INPUT_KEYS)
    further = read_content(row[key], key) if key else ""
    if further.strip():
        question = f"{question}\n\n{further}" if question.strip() else further
    answer = first_key(row, ("output", "response")) or "output"
    turns += [Message("user", question), Message("assistant", read_content(row[answer], answer))]
    return _with_system(row, turns)


def _prompt_completion(row: Json) -> list[Message]:
    turns: list[Message] = []
    sides: tuple[tuple[tuple[str, ...], Role], ...] = ((PROMPT_KEYS, "user"), (COMPLETION_KEYS, "assistant"))
    for names, role in sides:
        key = first_key(row, names) or names[0]
        value = row[key]
        if isinstance(value, list) and value and isinstance(value[0], dict) and first_key(value[0], ROLE_KEYS):
            turns += read_turns(value, key)
        else:
            turns.append(Message(role, read_content(value, key)))
    return _with_system(row, turns)


def _prompt(row: Json) -> list[Message]:
    """A prompt without an answer: text, or turns. Where a row may have one, such a row lacks it."""
    key = first_key(row, PROMPT_KEYS) or PROMPT_KEYS[0]
    value = row[key]
    if isinstance(value, list) and value and isinstance(value[0], dict) and first_key(value[0], ROLE_KEYS):
        return _with_system(row, read_turns(value, key))
    return _with_system(row, [Message("user", read_content(value, key))])


def _question_answer(row: Json) -> list[Message]:
    """A question and its answer; a passage that the question is about stands before it (as in SQuAD)."""
    passage = "" if row.get("context") is None else read_content(row["context"], "context")
    question = read_content(row["question"], "question")
    asked = Message("user", f"{passage}\n\n{question}" if passage.strip() else question)
    return _with_system(row, [asked, Message("assistant", read_content(row["answer"], "answer"))])


def _text(row: Json) -> str:
    return read_content(row["text"], "text")


SHAPES: dict[str, Layout] = {
    "preference": Layout((("chosen",), ("rejected",)), read_preference),
    "messages": Layout((("messages",),), _messages),
    "sharegpt": Layout((("conversations",),), _sharegpt),
    "alpaca": Layout((("instruction",), ("output", "response")), _alpaca),
    "instances": Layout((("instruction",), ("instances",)), read_instances),
    "choices": Layout((QUESTION_KEYS, CHOICE_KEYS, GOLD_KEYS), read_choices),
    "cloze": Layout((("context_options",), ("continuation",), ("gold",)), read_cloze),
    "question_answer": Layout((("question",), ("answer",)), _question_answer),
    "prompt_completion": Layout((PROMPT_KEYS, COMPLETION_KEYS), _prompt_completion),
    "prompt": Layout((PROMPT_KEYS,), _prompt),
    "text": Layout((("text",),), _text),
}
