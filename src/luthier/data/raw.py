"""One row as it stands in a file: a line that is still to be parsed, or the object in it, or what is wrong with it."""

import hashlib
import json
from typing import Any, NamedTuple

from luthier.types import Fate, Json

BLANK = b" \t\r\n"
LARGEST_ROW = 32 << 20
"""Bytes of a row above which it is not read: no model's context comes near, and memory has to stay bounded."""


class RawRow(NamedTuple):
    """One row as it was read: the object in it, or the problem that kept it from being read.

    `source` is the path as the recipe gives it, with the file where that is a folder; `line` counts from 1, and is the
    place in the list where a file has no lines; `digest` is the sha256 of the row as it stands in the file; `document`
    names the document that a passage of text comes from; `size` is about how many bytes the row has.
    """

    source: str
    line: int
    value: Json | None
    problem: Fate | None
    digest: str
    document: str | None = None
    size: int = 500


class Unread(NamedTuple):
    """One line of a file of JSON lines, not parsed yet: that is work for whoever works on the row."""

    source: str
    line: int
    body: bytes
    digest: str


def unread(source: str, line: int, body: bytes) -> Unread:
    """A line with its digest."""
    return Unread(source, line, body, hashlib.sha256(body.strip(BLANK)).hexdigest())


def open_row(row: "RawRow | Unread") -> RawRow:
    """The row with its line parsed. What is said of it does not depend on where it stands."""
    if isinstance(row, RawRow):
        return row
    value: Any = None
    problem: Fate | None = None
    try:
        text = row.body.decode("utf-8")
        value = JSON.decode(text)
        problem = problem_of(value, suspect="\\u" in text and ("\\ud" in text or "\\uD" in text))
    except UnicodeDecodeError as error:
        problem = Fate("not_utf8", f"byte 0x{row.body[error.start]:02x} at column {error.start + 1} is not UTF-8")
    except json.JSONDecodeError as error:
        problem = Fate("not_json", f"not JSON at column {error.colno}: {error.msg}")
    except RecursionError:
        problem = Fate("not_json", "not JSON at column 1: nested too deeply")
    except TwiceError as error:
        problem = Fate("not_json", f"the key {error} stands twice in one object: only the second would be read")
    except ValueError as error:  # Python refuses integers of thousands of digits
        problem = Fate("not_json", f"not JSON at column 1: {error}")
    return RawRow(row.source, row.line, None if problem else value, problem, row.digest)


class TwiceError(ValueError):
    """A key that stands twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> Json:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(repr(next(name for name in names if names.count(name) > 1))[:80])
    return made


JSON = json.JSONDecoder(object_pairs_hook=_once)


def problem_of(value: Any, *, suspect: bool) -> Fate | None:
    """What is wrong with a parsed row; `suspect` when its text may hold halves of characters."""
    if not isinstance(value, dict):
        fix = ": if the file is one list, name it .json" if isinstance(value, list) else ""
        return Fate("not_object", f"a JSON {type_name(value)} where an object was expected{fix}")
    if not suspect:
        return None
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        return Fate("not_utf8", f"the escape {half} is half a character, which UTF-8 cannot express")
    except RecursionError:
        return Fate("not_json", "nested too deeply")
    return None


def type_name(value: Any) -> str:
    """The JSON name of a value's type; of what JSON does not have (a date in a table) the type's own name."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names: dict[type, str] = {dict: "object", list: "list", str: "text", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)


def too_large(source: str, line: int, size: int, mark: str) -> RawRow:
    """The row that is too long to be read."""
    most, real = LARGEST_ROW >> 20, size / (1 << 20)
    return RawRow(source, line, None, Fate("too_large", f"the row has {real:,.0f} MiB, more than {most} MiB"), mark)
