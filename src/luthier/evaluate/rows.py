"""Reading the files that tasks are made from: JSON Lines, JSON, CSV and their gzipped forms, with places in errors."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.errors import DataError

Row = dict[str, Any]


def read_text(path: Path) -> str:
    """A text file, unpacked when its name ends in .gz.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read: {reason}", where=str(path), fix="check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason}", where=str(path), fix="save it as UTF-8") from error


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of a .jsonl, .json (a list) or .csv file, each with its place, `file:line`.

    Raises:
        DataError: a line is not an object, or the file holds none.
    """
    text, kind = read_text(path), Path(path.name.removesuffix(".gz")).suffix
    found = 0
    if kind == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            found += 1
            yield f"{path}:{reader.line_num}", {str(k): v for k, v in row.items() if k is not None}
    elif kind == ".json":
        rows = _json(text, str(path))
        for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
            found += 1
            yield f"{path}:{number}", _object(row, f"{path}:{number}")
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                found += 1
                yield f"{path}:{number}", _object(_json(line, f"{path}:{number}"), f"{path}:{number}")
    if not found:
        raise DataError("no questions: the file holds nothing", where=str(path), fix="add lines or remove the suite")


def read_table(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines of a .csv file without a heading, each with its place."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    for row in reader:
        if row:
            yield f"{path}:{reader.line_num}", row


def need(row: Row, key: str, where: str) -> Any:
    """A value that a row must have.

    Raises:
        DataError: it does not.
    """
    if key not in row:
        has = ", ".join(map(str, row)) or "none"
        raise DataError(f'no "{key}" here; the keys are {has}', where=where, fix="mend this line")
    return row[key]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=where, fix="mend this line") from error


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"not an object but {type(value).__name__}", where=where, fix="mend this line")
    return value
