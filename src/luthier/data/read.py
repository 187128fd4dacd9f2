"""Reading rows: one row for each row of a source, whole or broken. Nothing is skipped and nothing is mended.

A source is a file, a folder of files (taken in the order of their names) or a data set of the hub. Adding a kind of
file is a function in a file of its own and a line in `READERS`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.artifact import MANIFEST, digest, file_digest
from luthier.data.extract import EXTRACTORS, read_document, refuse_compressed
from luthier.data.hub import PREFIX, fetch
from luthier.data.lines import read_lines, read_list
from luthier.data.raw import RawRow, Unread, open_row
from luthier.data.stream import COMPRESSED, kind_of
from luthier.data.tables import read_parquet, read_table
from luthier.errors import DataError
from luthier.types import Fate

PASSAGE = 4_000
"""Letters of a passage where nothing else is said."""

READERS: dict[str, Callable[[Path, str], Iterator[RawRow | Unread]]] = {
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": read_list,
    ".csv": read_table,
    ".tsv": read_table,
    ".parquet": read_parquet,
}


def resolve(path: str, recipe_folder: Path) -> Path:
    """The file or folder a recipe means: beside the recipe first, then in the working folder.

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


class Files(NamedTuple):
    """The files of a source with the names that they have in the ledger, in order; and what is no file of rows."""

    source: str
    files: list[tuple[Path, str]]
    left_out: Sequence[str] = ()

    def digest(self) -> str:
        """A hash of all that the rows are read from."""
        if len(self.files) == 1:
            return file_digest(self.files[0][0])
        return digest([[name, file_digest(path)] for path, name in self.files])


def find_files(source: str, recipe_folder: Path) -> Files:
    """The files of a source: one, those of a folder, or those of a data set of the hub.

    Raises:
        DataError: there are none.
        Missing: the hub cannot be reached.
    """
    if source.startswith(PREFIX):
        return Files(source, fetch(source))
    path = resolve(source, recipe_folder)
    return files_in(path, source) if path.is_dir() else Files(source, [(path, source)])


def files_in(folder: Path, source: str) -> Files:
    """All files of a known kind in a folder and those below; hidden ones and Luthier's own are passed over.

    A folder that links back to one above it is entered once.

    Raises:
        DataError: there is none.
    """
    seen: set[str] = set()
    found: list[tuple[Path, str]] = []
    left: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _is_ours(Path(place) / name))
        for name in sorted(names):
            file = Path(place) / name
            within = file.relative_to(folder).as_posix()
            if name.startswith(".") or not file.is_file():
                continue
            if kind_of(file) in (*READERS, *EXTRACTORS):
                found.append((file, f"{source.rstrip('/')}/{within}"))
            else:
                left.append(within)
    if not found:
        kinds = ", ".join((*READERS, *EXTRACTORS))
        raise DataError(f"the folder holds no file that is read ({kinds})", where=source, fix="name another folder")
    return Files(source, found, left)


def _is_ours(folder: Path) -> bool:
    """True for a folder of runs or an artifact: what Luthier wrote beside the rows is no source of rows."""
    return (folder / MANIFEST).is_file() or any(folder.glob(f"artifacts/*/{MANIFEST}"))


def scan(path: Path, source: str, passage: int = PASSAGE, *, alone: bool = True) -> Iterator[RawRow | Unread]:
    """All rows of a file, in order, lines not parsed yet.

    Args:
        path: the file, as `resolve` found it.
        source: the path as the recipe gives it, for messages.
        passage: the most letters of a passage, for documents.
        alone: an empty file is an error; one among others of a folder is a row with that fate.

    Raises:
        DataError: the file cannot be read, is of another kind, or holds no rows; a .json file does not parse.
        Missing: a package for this kind of file is not there.
    """
    count = 0
    try:
        for row in _rows(path, source, passage):
            count += 1
            yield row
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"cannot be read: {reason}", where=source, fix="check the file and its permissions") from error
    if not count and not alone:
        yield RawRow(source, 1, None, Fate("empty_file", "the file holds nothing"), file_digest(path))
    elif not count:
        raise DataError("no rows: the file holds nothing", where=source, fix="add rows or remove the source")


def read_rows(path: Path, source: str, passage: int = PASSAGE) -> Iterator[RawRow]:
    """All rows of a file, in order, parsed; see `scan`."""
    for row in scan(path, source, passage):
        yield open_row(row)


def _rows(path: Path, source: str, passage: int) -> Iterator[RawRow | Unread]:
    if path.is_dir():
        raise DataError("is a folder, not a file of rows", where=source, fix="name one of its files")
    kind = kind_of(path)
    if kind in EXTRACTORS:
        if path.suffix.lower() in COMPRESSED:
            raise refuse_compressed(path, source)
        return read_document(path, source, passage)
    reader = READERS.get(kind)
    if reader is None:
        kinds = ", ".join((*READERS, *EXTRACTORS))
        raise DataError(
            f"files of the kind '{path.suffix}' are not read" if path.suffix else "the file has no suffix",
            where=source,
            fix=f"write the rows as one of {kinds}; {', '.join(READERS)} may be compressed as .gz or .zst",
        )
    return reader(path, source)
