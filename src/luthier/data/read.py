"""Reading rows: one `RawRow` for each row of a file, whole or broken. Nothing is skipped and nothing is mended."""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.artifact import digest
from luthier.errors import DataError
from luthier.types import Fate, Json

BLANK = b" \t\r\n"
CONVERSATION_KEYS = ("messages", "conversations")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was read: the object in it, or the problem that kept it from being read.

    `source` is the path as the recipe gives it; `line` counts from 1, for a .json file it is the place in the list;
    `digest` is the sha256 of the row as it stands in the file.
    """

    source: str
    line: int
    value: Json | None
    problem: Fate | None
    digest: str


def resolve(path: str, recipe_folder: Path) -> Path:
    """The file a recipe means: beside the recipe first, then in the working folder.

    Raises:
        DataError: there is nothing in either place.
    """
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [recipe_folder / given, given]
    for place in dict.fromkeys(places):
        try:
            if place.exists():
                return place
        except (OSError, ValueError):  # a name too long, or with a NUL in it: no such file either way
            continue
    looked = " and ".join(str(place.absolute().parent) for place in places)
    raise DataError(
        f"there is no such file (looked in {looked})",
        where=path,
        fix="correct the path in the recipe: it is looked for beside the recipe, then in the working folder",
    )


def read_rows(path: Path, source: str) -> Iterator[RawRow]:
    """All rows of a .jsonl or .json file, in order.

    Args:
        path: the file, as `resolve` found it.
        source: the path as the recipe gives it, for messages.

    Raises:
        DataError: the file cannot be read, is of another kind, or holds no rows; a .json file does not parse.
    """
    reader = _reader(path, source)
    count = 0
    try:
        for row in reader(path, source):
            count += 1
            yield row
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"cannot be read: {reason}", where=source, fix="check the file and its permissions") from error
    if not count:
        raise DataError("no rows: the file holds nothing", where=source, fix="add rows or remove the source")


def _reader(path: Path, source: str) -> "Callable[[Path, str], Iterator[RawRow]]":
    if path.is_dir():
        raise DataError("is a folder, not a file of rows", where=source, fix="name one .jsonl or .json file in it")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        kinds = " or ".join(READERS)
        raise DataError(
            f"files of the kind '{path.suffix}' are not read" if path.suffix else "the file has no suffix",
            where=source,
            fix=f"write the rows as {kinds}",
        )
    return reader


def _read_lines(path: Path, source: str) -> Iterator[RawRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            body = line.rstrip(b"\r\n")
            if number == 1:
                _refuse_utf16(body, source)
                body = body.removeprefix(codecs.BOM_UTF8)
            if body.strip(BLANK):
                yield _parse_line(body, source, number)


def _refuse_utf16(start: bytes, source: str) -> None:
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and b"\0" in start[:4]:
        raise DataError("the file is UTF-16, not UTF-8", where=source, fix="save it as UTF-8")


def _parse_line(body: bytes, source: str, line: int) -> RawRow:
    mark = hashlib.sha256(body.strip(BLANK)).hexdigest()
    value: Any = None
    problem: Fate | None = None
    try:
        text = body.decode("utf-8")
        value = json.loads(text)
        problem = _problem(value, suspect=bool(_SURROGATE.search(text)))
    except UnicodeDecodeError as error:
        problem = Fate("not_utf8", f"byte 0x{body[error.start]:02x} at column {error.start + 1} is not UTF-8")
    except json.JSONDecodeError as error:
        problem = Fate("not_json", f"not JSON at line {line} column {error.colno}: {error.msg}")
    except RecursionError:
        problem = Fate("not_json", f"not JSON at line {line} column 1: nested too deeply")
    except ValueError as error:  # Python refuses integers of thousands of digits
        problem = Fate("not_json", f"not JSON at line {line} column 1: {error}")
    return RawRow(source, line, None if problem else value, problem, mark)


def _problem(value: Any, *, suspect: bool) -> Fate | None:
    """What is wrong with a parsed row; `suspect` when its text holds escapes of surrogates."""
    if not isinstance(value, dict):
        return Fate("not_object", f"a JSON {type_name(value)} where an object was expected")
    if not suspect:
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        return Fate("not_utf8", f"the escape {half} is half a character, which UTF-8 cannot express")
    return None


def _read_document(path: Path, source: str) -> Iterator[RawRow]:
    data = path.read_bytes()
    _refuse_utf16(data, source)
    text = _decode(data.removeprefix(codecs.BOM_UTF8), source)
    suspect = bool(_SURROGATE.search(text))
    document = _parse_document(text, source) if text.strip() else []
    del text
    for position, value in enumerate(_list_in(document, source), 1):
        try:
            problem, mark = _problem(value, suspect=suspect), digest(value)
        except RecursionError:
            problem = Fate("not_json", f"not JSON at row {position}: nested too deeply")
            mark = hashlib.sha256(data).hexdigest()
        yield RawRow(source, position, None if problem else value, problem, mark)


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise DataError(
            f"byte 0x{data[error.start]:02x} at column {column} is not UTF-8",
            where=f"{source}:{line}",
            fix="a .json file is one document: mend it, or write one object a line and name it .jsonl",
        ) from error


def _parse_document(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data"  # the first value was whole: most likely one object a line
        raise DataError(
            f"not JSON at line {error.lineno} column {error.colno}: {error.msg}",
            where=f"{source}:{error.lineno}",
            fix="rename it to .jsonl if it holds one object a line" if lines else "mend the file: it is one document",
        ) from error
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(
            f"not JSON: {reason}", where=source, fix="write one object a line and name it .jsonl"
        ) from error


def _list_in(document: Any, source: str) -> list[Any]:
    """The rows of a .json file: its list, or the one list in its object."""
    if isinstance(document, list):
        return document
    found = f"a JSON {type_name(document)}"
    if isinstance(document, dict):
        lists = [key for key, value in document.items() if isinstance(value, list)]
        if len(lists) == 1 and lists[0] not in CONVERSATION_KEYS:
            rows: list[Any] = document[lists[0]]
            return rows
        found = "one conversation" if lists and lists[0] in CONVERSATION_KEYS else f"an object with {len(lists)} lists"
    raise DataError(
        f"{found} where a list of rows was expected",
        where=source,
        fix='write a list of objects, or an object with one list such as {"rows": [...]}',
    )


def type_name(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names: dict[type, str] = {dict: "object", list: "list", str: "text", int: "number", float: "number"}
    return names[type(value)]


READERS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {".jsonl": _read_lines, ".json": _read_document}
