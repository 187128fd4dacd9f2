"""Reading the files that tasks are made from, with places in errors: JSON Lines, JSON, CSV (gzipped too), Parquet."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import DataError, Missing

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
    """The objects of a .jsonl, .json (a list), .csv or .parquet file, each with its place, `file:line`.

    Raises:
        DataError: a line is not an object, or the file holds none.
        Missing: the file is Parquet, and pyarrow is not installed.
    """
    kind = Path(path.name.removesuffix(".gz")).suffix
    read = {".csv": _csv, ".json": _json_list, ".parquet": _parquet}.get(kind, _json_lines)
    empty = True
    for number, row in read(path):
        empty = False
        yield f"{path}:{number}", row
    if empty:
        raise DataError("no questions: the file holds nothing", where=str(path), fix="add lines or remove the suite")


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    lines = _lines(path)
    _, heading = next(lines, (1, []))
    for number, row in lines:
        yield number, dict(zip(heading, row, strict=False))  # a line that is too short lacks the last columns


def _json_list(path: Path) -> Iterator[tuple[int, Row]]:
    rows = _json(read_text(path), str(path))
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield number, _object(row, f"{path}:{number}")


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, _object(_json(line, f"{path}:{number}"), f"{path}:{number}")


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise Missing("Parquet files need pyarrow", where=str(path), fix="pip install 'luthier[data]'") from error
    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"not Parquet: {error}", where=str(path), fix="fetch the file again, whole") from error


def read_table(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines of a .csv file without a heading, each with its place."""
    for number, row in _lines(path):
        yield f"{path}:{number}", row


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table that are not empty, with the number of the text line each ends on."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=f"{path}:{reader.line_num}", fix="mend this line") from error


def need(row: Row, key: str, where: str, columns: Sequence[str] = ()) -> Any:
    """A value that a row must have.

    Args:
        row: the row.
        key: the column.
        where: the row's place.
        columns: all that the file's format has, to be told.

    Raises:
        DataError: the row has no such column, or no value in it.
    """
    if row.get(key) is None:
        has = ", ".join(map(str, row)) or "none"
        expected = f"; the columns expected are {', '.join(columns)}" if columns else ""
        raise DataError(f'no "{key}" here; the keys are {has}{expected}', where=where, fix="mend this line")
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
