"""The part of Go's template language that a chat template needs: written for Ollama, and read back to check it.

Known: text, `{{ "literal" }}`, `.Role` and `.Content` inside `{{ range .Messages }}`, variables, `if`, `else if`,
`else`, `eq`, and the hyphens that take white space away (Go's package text/template).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from luthier.types import Json

_ACTION = re.compile(r"\{\{(-\s)?\s*((?:\"(?:[^\"\\]|\\.)*\"|[^\"}]|\}(?!\}))*?)\s*(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')


@dataclass(slots=True)
class _Block:
    """`range` or `if`: its condition, what follows it, and the branch that is taken otherwise."""

    kind: str
    words: list[str]
    body: list["_Part"] = field(default_factory=list)
    otherwise: list["_Part"] = field(default_factory=list)


_Part = str | list[str] | _Block


def quote(text: str) -> str:
    """A text as a literal of Go."""
    return json.dumps(text, ensure_ascii=False)


def render(template: str, messages: Sequence[Json]) -> str:
    """What a template of this kind writes for a conversation.

    Raises:
        ValueError: it uses what is not known here.
    """
    parts, rest = _parse(iter(_split(template)))
    if rest:
        raise ValueError(f"'{rest}' without a beginning")
    return "".join(_write(parts, {}, messages, None))


def _split(template: str) -> list[str | list[str]]:
    """Texts and actions in turn, white space beside hyphens gone; an action is a list of its words."""
    found: list[str | list[str]] = []
    at, strip = 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if strip else text
        found.append(text.rstrip() if match[1] else text)
        found.append(_WORD.findall(match[2]))
        at, strip = match.end(), bool(match[3])
    rest = template[at:]
    if "{{" in rest:
        raise ValueError(f"cannot be read: {rest[:40]}")
    found.append(rest.lstrip() if strip else rest)
    return found


def _parse(pieces: Iterator[str | list[str]]) -> tuple[list[_Part], str]:
    """Parts up to an `end` or `else`, which is given back as text."""
    parts: list[_Part] = []
    for piece in pieces:
        if isinstance(piece, str) or piece[0] not in ("range", "if", "else", "end"):
            parts.append(piece)
        elif piece[0] in ("else", "end"):
            return parts, " ".join(piece)
        else:
            parts.append(_block(piece[0], piece[1:], pieces))
    return parts, ""


def _block(kind: str, words: list[str], pieces: Iterator[str | list[str]]) -> _Block:
    block = _Block(kind, words)
    block.body, closed = _parse(pieces)
    if closed.startswith("else if"):
        block.otherwise = [_block("if", _WORD.findall(closed)[2:], pieces)]
    elif closed == "else":
        block.otherwise, closed = _parse(pieces)
    if not closed:
        raise ValueError(f"'{kind}' has no end")
    return block


def _write(parts: Sequence[_Part], names: dict[str, str], messages: Sequence[Json], turn: Json | None) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, _Block):
            if part.kind == "range":
                for one in messages:
                    yield from _write(part.body, names, messages, one)
            else:
                taken = part.body if _holds(part.words, names, turn) else part.otherwise
                yield from _write(taken, names, messages, turn)
        elif len(part) == 3 and part[1] in (":=", "="):
            names[part[0]] = _value(part[2], names, turn)
        elif len(part) == 1:
            yield _value(part[0], names, turn)
        else:
            raise ValueError(f"not known: {' '.join(part)}")


def _holds(words: list[str], names: dict[str, str], turn: Json | None) -> bool:
    if len(words) != 3 or words[0] != "eq":
        raise ValueError(f"not known: if {' '.join(words)}")
    return _value(words[1], names, turn) == _value(words[2], names, turn)


def _value(word: str, names: dict[str, str], turn: Json | None) -> str:
    if word.startswith('"'):
        return str(json.loads(word))
    if word in (".Role", ".Content") and turn is not None:
        return str(turn[word[1:].lower()])
    if word in names:
        return names[word]
    raise ValueError(f"not known: {word}")
