"""Files of JSON: one object a line, or one list of objects."""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from luthier.artifact import digest
from luthier.data.raw import BLANK, LARGEST_ROW, RawRow, Unread, problem_of, too_large, type_name, unread
from luthier.data.stream import open_stream
from luthier.errors import DataError

CONVERSATION_KEYS = ("messages", "conversations", "conversation")
WHOLE = 64 << 20
"""Bytes up to which a .json file is parsed at once; a longer one is gone through value by value."""
STEP = 1 << 20
_BETWEEN, _BLANK = re.compile(r"[\s,]*"), re.compile(r"\s*")


def read_lines(path: Path, source: str) -> Iterator[Unread | RawRow]:
    """One object a line. Blank lines are none; a line beyond all measure is counted but not held."""
    with open_stream(path, source) as stream:
        number = 0
        while line := stream.readline(LARGEST_ROW + 1):
            number += 1
            if len(line) > LARGEST_ROW and not line.endswith(b"\n"):
                yield too_large(source, number, *_pass_over(stream, line))
                continue
            body = line.rstrip(b"\r\n")
            if b"\r" not in body:
                if body.strip(BLANK):
                    yield unread(source, number, body)
                continue
            for number, part in enumerate(_old_lines(body), number):  # noqa: B020 - lines go on counting
                if part.strip(BLANK):
                    yield unread(source, number, part)


def _old_lines(body: bytes) -> list[bytes]:
    """The lines of a stretch that ends them with lone carriage returns; the stretch where those are inside of rows."""
    parts = body.split(b"\r")
    whole = all(part.startswith(b"{") and part.endswith(b"}") for part in map(bytes.strip, parts) if part)
    return parts if whole else [body]


def _pass_over(stream: IO[bytes], start: bytes) -> tuple[int, str]:
    """Read to the end of the line; its size and hash."""
    size, mark = len(start), hashlib.sha256(start)
    while True:
        part = stream.readline(STEP)
        size += len(part)
        mark.update(part)
        if len(part) < STEP or part.endswith(b"\n"):
            return size, mark.hexdigest()


def read_list(path: Path, source: str) -> Iterator[RawRow]:
    """The objects in the list of a .json file."""
    with open_stream(path, source) as stream:
        data = stream.read(WHOLE + 1)
        rows = _stream(data, stream, source) if len(data) > WHOLE else _rows(data, source)
        for position, (value, suspect, size) in enumerate(rows, 1):
            problem = problem_of(value, suspect=suspect)
            try:
                mark = digest(value)
            except RecursionError:
                problem, mark = problem_of(value, suspect=True), hashlib.sha256(data).hexdigest()
            yield RawRow(source, position, None if problem else value, problem, mark, size=size)


def _rows(data: bytes, source: str) -> Iterator[tuple[Any, bool, int]]:
    text = _decode(data, source)
    suspect = "\\u" in text
    document = _parse(text, source) if text.strip() else []
    del text
    found = _list_in(document, source)
    yield from ((value, suspect, len(data) // len(found)) for value in found)


def _stream(start: bytes, stream: IO[bytes], source: str) -> Iterator[tuple[Any, bool, int]]:
    """The values of a list too long to be held, one by one."""
    if not start.lstrip().startswith(b"["):
        raise DataError(
            f"an object of more than {WHOLE >> 20} MiB where a list of rows was expected",
            where=source,
            fix="write the list by itself, or better one object a line in a .jsonl file",
        )
    decoder, parser = json.JSONDecoder(), _Decoded(stream, source)
    parser.feed(start)
    at, wanted = parser.text.index("[") + 1, STEP
    while True:
        at = _end(_BETWEEN, parser.text, at)
        try:
            if parser.text[at] == "]":
                return
            value, end = decoder.raw_decode(parser.text, at)
            if parser.text[_end(_BLANK, parser.text, end)] not in ",]":  # a number that goes on
                raise IndexError
        except (IndexError, ValueError, RecursionError) as error:
            if isinstance(error, RecursionError) or wanted > LARGEST_ROW or not parser.more(at, wanted):
                fix = "mend the file, or write one object a line and name it .jsonl"
                raise DataError(f"not JSON after {parser.passed + at:,} letters", where=source, fix=fix) from error
            at, wanted = 0, 2 * wanted
            continue
        yield value, "\\u" in parser.text[at:end], end - at
        at, wanted = end, STEP


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


class _Decoded:
    """The part of a file's text that is held."""

    def __init__(self, stream: IO[bytes], source: str) -> None:
        self.stream, self.source, self.text, self.passed = stream, source, "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes) -> None:
        """Take in bytes; of a character cut in two the first part waits."""
        try:
            self.text += self._decoder.decode(data)
        except UnicodeDecodeError as error:
            reason = (
                f"byte 0x{error.object[error.start]:02x} after {self.passed + len(self.text):,} letters is not UTF-8"
            )
            raise DataError(reason, where=self.source, fix="mend the file, or write one object a line") from error

    def more(self, at: int, wanted: int) -> bool:
        """Let go of what lies before `at` and read on; False at the end of the file."""
        self.passed += at
        self.text = self.text[at:]
        data = self.stream.read(wanted)
        if data:
            self.feed(data)
        return bool(data)


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


def _parse(text: str, source: str) -> Any:
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
