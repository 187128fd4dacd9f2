"""What to say of rows that cannot be read as they are: the field map that would read them, as far as they tell."""

import re
from collections.abc import Iterator, Mapping

from luthier.data.asking import PROMPT_KEYS
from luthier.data.turns import first_key, is_turns, quote
from luthier.types import Json

IMAGES = ("image", "images", "video", "videos", "audio", "audios")
ASKING = re.compile(r"question|prompt|instruct|query|problem|input|user|human|ask|goal", re.IGNORECASE)
WORKED_ON = re.compile(r"article|document|dialog|passage|report|description|content|text|ticket|message", re.IGNORECASE)
ANSWERING = re.compile(
    r"answer|response|reply|output|completion|target|solution|code|summary|highlight|assistant|result|translation|label",
    re.IGNORECASE,
)
ASIDE = re.compile(
    r"(^|_)(ids?|uuid|hash|url|link|lang|language|type|models?|date|time|timestamp|split|file|level|name|source|kind"
    r"|category|winner|title)(_[ab01])?$",
    re.IGNORECASE,
)
"""Names of columns that say something of a row and are no part of it."""
BESIDE_TEXT = ("role", "code", "summary", "highlights", "label", "labels", "target", "translation", "answers")
"""Columns beside `text` with which the text alone is seldom what is meant."""
TWINS = re.compile(r"(.+?)[ _-]?(0|1|2|a|b|j|k)", re.IGNORECASE)
PREFERRED = re.compile(r"(^|_)(preferred|better|winning|accepted|positive)", re.IGNORECASE)
LESS = re.compile(r"(^|_)(non_preferred|dispreferred|worse|losing|unaccepted|negative)", re.IGNORECASE)
MARKED = re.compile(r"(^|\n|#\s*)(USER|Human|User)\s*:.*(ASSISTANT|Assistant)\s*:", re.DOTALL)
BESIDE = "beside the source's path"


def misread(row: Json, name: str, fields: Mapping[str, str | None]) -> str | None:
    """Why a row that has the keys of a shape is not read as one; None where it may be."""
    if name != "text":
        image = next((key for key in IMAGES if row.get(key)), None)
        if image is None:
            return None
        return (
            f"'{image}' is not text, and only text is learned: leave the row out, or the key where the text is enough"
        )
    if fields.get("text") is not None:
        return None
    key = first_key(row, BESIDE_TEXT)
    alone = f"to learn the text alone say fields: {{text: text}} {BESIDE}"
    if key is None:
        return None
    if key == "role":
        return f"a row with 'text' and 'role' is one turn: put the turns of a conversation into one row; {alone}"
    return f"'{key}' stands beside 'text': if it answers it say fields: {{prompt: text, completion: {key}}}; {alone}"


def advice(row: Json) -> str:
    """The field map that would read a row of no known shape, with a semicolon before it; nothing where none would."""
    return next((f"; {said}" for said in _ideas(row) if said), "")


def _ideas(row: Json) -> Iterator[str]:
    texts = _texts(row)
    asked = first_key(row, PROMPT_KEYS) or next((key for key in texts if ASKING.search(key)), None)
    rest = [key for key in texts if key != asked and not ASKING.fullmatch(key)]
    answer = next((key for key in rest if ANSWERING.search(key) and not TWINS.fullmatch(key)), None)
    if answer is None:
        yield _of_two(row, texts, asked)
    turns = next((key for key, value in row.items() if _like_turns(value)), None)
    if turns:
        yield f"if {quote(turns)} is the conversation, say fields: {{messages: {turns}}} {BESIDE}"
    asked = asked or next((key for key in rest if key != answer and WORKED_ON.search(key)), None)
    listed = next((key for key, value in row.items() if asked and _holds_objects(value)), None)
    if listed and answer is None:
        yield f"{quote(listed)} is a list: write its entry to learn as 'output', or two of them as chosen and rejected"
    marked = next((key for key in texts if "." not in key and MARKED.search(row[key])), None)
    if marked and answer is None:
        yield f"{quote(marked)} is a conversation in one text: write its turns as 'messages' of 'role' and 'content'"
    if asked and (answer := answer or next((key for key in rest if key != asked), None)):
        ours = f"completion: {answer}" if asked in PROMPT_KEYS else f"prompt: {asked}, completion: {answer}"
        yield f"if {quote(answer)} answers {quote(asked)}, say fields: {{{ours}}} {BESIDE}"
    yield from _plain(texts)


def _plain(texts: list[str]) -> Iterator[str]:
    if not texts:
        return
    said = f"to learn {quote(texts[0])} as plain text say fields: {{text: {texts[0]}}} {BESIDE}"
    if len(texts) > 1:
        said += f", or, if {quote(texts[1])} answers it, {{prompt: {texts[0]}, completion: {texts[1]}}}"
    yield said


def _holds_objects(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and isinstance(value[0], dict) and not is_turns(value)


def _texts(row: Json) -> list[str]:
    """The paths of texts, the longest first; names that only describe a row are passed over."""
    found = {key: value for key, value in row.items() if isinstance(value, str)}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": held for name, held in value.items() if isinstance(held, str)}
    return sorted(
        (k for k, value in found.items() if value.strip() and not ASIDE.search(k)), key=lambda k: -len(found[k])
    )


def _like_turns(value: object) -> bool:
    if is_turns(value):
        return True
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(turn, str) for turn in value):
        return False
    return 2 * sum(" " in turn for turn in value) >= len(value)


def _of_two(row: Json, texts: list[str], asked: str | None) -> str:
    """Two answers under names that only differ in their end, or that say which is the better one."""
    held = [key for key, value in row.items() if (key in texts and not ASIDE.search(key)) or is_turns(value)]
    less = next((key for key in held if LESS.search(key)), None)
    more = next((key for key in held if PREFERRED.search(key) and key != less), None)
    prompt = f"prompt: {asked}, " if asked in texts and asked not in PROMPT_KEYS else ""
    if less and more:
        if isinstance(row.get("input"), dict):  # OpenAI's form for preferences
            prompt = "messages: input.messages, tools: input.tools, "
        return f"say fields: {{{prompt}chosen: {more}, rejected: {less}}} {BESIDE}"
    ends: dict[str, list[str]] = {}
    for key in held:
        if found := TWINS.fullmatch(key):
            ends.setdefault(found[1], []).append(key)
    pair = next((sorted(keys) for stem, keys in ends.items() if len(keys) == 2 and stem), None)
    if pair is None:
        return ""
    one, other = pair
    return (
        f"if '{one}' is the better answer in every row, say fields: {{{prompt}chosen: {one}, rejected: {other}}} "
        f"{BESIDE}; where another field says which is, write chosen and rejected first"
    )
