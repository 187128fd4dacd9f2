"""Tables: .csv and .tsv with a header, and .parquet. A row is an object with the columns as keys."""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from luthier.artifact import digest
from luthier.data.raw import LARGEST_ROW, RawRow, problem_of, too_large
from luthier.data.stream import missing, open_stream
from luthier.errors import DataError
from luthier.types import Fate, Json

STRUCTURED = (
    "messages",
    "conversations",
    "chosen",
    "rejected",
    "prompt",
    "completion",
    "history",
    "tools",
    "functions",
)
"""Columns that may hold JSON in a cell."""
SEPARATORS = ",;\t|"
BATCH, HELD = 256, 64 << 20
"""Rows of a Parquet file that are read at once, and the bytes that they may take together."""
LONGEST_HEADER = 1 << 16
"""Letters within which the quotes of the first row have to be closed."""
CHOICES, LEAST_CELLS = ["A", "B", "C", "D", "E"], 4
"""Letters of choices, and the least cells of a row with a question, two choices and the letter of the right one."""
_ESCAPED = re.compile("[\ud800-\udfff]")


def read_table(path: Path, source: str) -> Iterator[RawRow]:
    """A .csv or .tsv file. The separator is the one that the header has most of."""
    with open_stream(path, source) as stream:
        text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
        csv.field_size_limit(LARGEST_ROW)
        first, rest = _first_row(text)
        header, separator = _header(first, source)
        start = len(first) + 1
        lines: Iterable[str] = itertools.chain(rest, text)
        if (
            len(header) >= LEAST_CELLS and header[-1] in CHOICES and len(header[0]) > 1
        ):  # MMLU's files begin with the first question
            lines, start = itertools.chain(first, rest, text), 1
            header = ["question", *CHOICES[: len(header) - 2], "answer"]
        rows = csv.reader(lines, delimiter=separator, strict=True)
        before = start
        try:
            for cells in rows:
                line, start = start, rows.line_num + before
                if any(cell.strip() for cell in cells):
                    yield _row(source, line, header, cells)
        except csv.Error as error:
            raise DataError(
                f"the row that begins in line {start} cannot be read: {error}",
                where=f"{source}:{start}",
                fix='close the quote there (a quote inside of a cell is written twice: ""); cells may have 32 MiB',
            ) from error


def _first_row(text: Iterable[str]) -> tuple[list[str], list[str]]:
    """The lines of the first row, of which a quoted cell may span several, and those that were read beyond it."""
    read: list[str] = []
    quotes = letters = 0
    for line in text:
        read.append(line)
        quotes, letters = quotes + line.count('"'), letters + len(line)
        if quotes % 2 == 0:
            return read, []
        if letters > LONGEST_HEADER:
            break
    return read[:1], read[1:]  # the quote is never closed: a sign of inches, most likely


def _header(lines: list[str], source: str) -> tuple[list[str], str]:
    whole = "".join(lines)
    if _ESCAPED.search(whole):
        raise DataError("the header is not UTF-8", where=f"{source}:1", fix="save the table as UTF-8")
    separator = max(SEPARATORS, key=whole.count)
    try:
        found = next(csv.reader(lines, delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise DataError(
            f"the header cannot be read: {error}", where=f"{source}:1", fix="write the names of the columns in one line"
        ) from error
    names = [name.strip() for name in found]
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise DataError(
            f"two columns have the name '{twice[0]}'", where=f"{source}:1", fix="give every column a name of its own"
        )
    return names, separator


def _row(source: str, line: int, header: list[str], cells: list[str]) -> RawRow:
    mark = digest([header, cells])
    if len(cells) != len(header):
        reason = f"{len(cells)} cells, and the header names {len(header)} columns"
        return RawRow(source, line, None, Fate("wrong_width", reason), mark)
    if any(_ESCAPED.search(cell) for cell in cells):
        name = next(name for name, cell in zip(header, cells, strict=True) if _ESCAPED.search(cell))
        return RawRow(source, line, None, Fate("not_utf8", f"the cell '{name}' is not UTF-8"), mark)
    value = {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True) if name}
    return RawRow(source, line, value, None, mark, size=sum(map(len, cells)))


def _cell(name: str, cell: str) -> Any:
    if name not in STRUCTURED:
        return cell
    if not cell.strip():
        return None
    if cell.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def read_parquet(path: Path, source: str) -> Iterator[RawRow]:
    """A .parquet file, a few hundred rows at a time."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing("reading .parquet files", "pyarrow") from error
    line = 0
    try:
        with parquet.ParquetFile(path) as shut:
            names = [field.name for field in shut.schema_arrow if pyarrow.types.is_string(field.type)]
            many = _batch_of(shut.metadata)
        with parquet.ParquetFile(path, read_dictionary=names) as file:
            for batch in file.iter_batches(batch_size=many):
                size = _size_of(batch)
                step = batch.num_rows if size * batch.num_rows <= HELD else 1
                for first in range(0, batch.num_rows, step):
                    for value in batch.slice(first, step).to_pylist():
                        line += 1
                        yield _parquet_row(source, line, value, size)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError(
            f"the file is damaged or no parquet file: {reason}", where=source, fix="copy or download it again"
        ) from error


def _batch_of(metadata: Any) -> int:
    """Rows that are read at once, by what a row takes on average."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    many: int = HELD * metadata.num_rows // max(size, 1)
    return max(1, min(BATCH, many))


def _size_of(batch: Any) -> int:
    """Bytes of a row on average. A text that stands many times is held once, and may be far more than the file."""
    size = 0
    for column in batch.columns:
        texts = getattr(column, "dictionary", None)
        size += texts.nbytes // max(len(texts), 1) if texts is not None else column.nbytes // max(batch.num_rows, 1)
    return size


def _parquet_row(source: str, line: int, value: Json, size: int) -> RawRow:
    if size > LARGEST_ROW // 4:  # an average: the row itself is looked at
        real = sum(len(cell) for cell in value.values() if isinstance(cell, str | bytes))
        if real > LARGEST_ROW:
            return too_large(source, line, real, digest(value))
    problem = problem_of(value, suspect=False)
    return RawRow(source, line, None if problem else value, problem, digest(value), size=size)
