"""Files as streams of UTF-8 bytes: decompressed as they are read, UTF-16 recoded, never held whole."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from luthier.errors import DataError, Missing

COMPRESSED = (".gz", ".zst")
MOST_RATIO, FREE_BYTES = 500, 64 << 20
"""How many times larger a file may become, once it has passed so many bytes: honest text stays far below."""
CHUNK = 1 << 18
BOMS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

OTHERS = (
    (b"\x1f\x8b", "a gzip file", "add .gz to its name, as in rows.jsonl.gz"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "add .zst to its name, as in rows.jsonl.zst"),
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"PK\x03\x04", "a zip file", "unpack it and name what is in it"),
    (codecs.BOM_UTF32_LE, "a text in UTF-32", "save it as UTF-8"),
    (codecs.BOM_UTF32_BE, "a text in UTF-32", "save it as UTF-8"),
)
"""Beginnings of files that are no text, with what they are and what to do."""


class _Reader(io.RawIOBase):
    """A raw stream made of a function that gives the next bytes, none at the end."""

    def readable(self) -> bool:
        return True

    def _next(self) -> bytes:
        raise NotImplementedError

    def readinto(self, into: Any) -> int:
        view = memoryview(into).cast("B")
        if not self._held:
            self._held = self._next()
        count = min(len(view), len(self._held))
        view[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

    _held = b""


class _Bounded(_Reader):
    """What comes out of a compressed file, up to a bound."""

    def __init__(self, inner: Any, size: int, source: str) -> None:
        self._inner, self._source = inner, source
        self._left = max(FREE_BYTES, size * MOST_RATIO)

    def _next(self) -> bytes:
        data: bytes = self._inner.read(CHUNK)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"it becomes more than {MOST_RATIO} times larger when decompressed, which no text does",
                where=self._source,
                fix="check where the file comes from; if it is right, decompress it and name the decompressed file",
            )
        return data


class _Recoded(_Reader):
    """UTF-16 as UTF-8. Half a character becomes bytes that are not UTF-8, so that its row is told of it."""

    def __init__(self, inner: Any, encoding: str) -> None:
        self._inner = inner
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def _next(self) -> bytes:
        while data := self._inner.read(CHUNK):
            if text := self._decoder.decode(data):
                return text.encode("utf-8", "surrogatepass")
        try:
            rest = self._decoder.decode(b"", final=True)
        except UnicodeDecodeError:  # an odd byte at the end
            rest = "\N{REPLACEMENT CHARACTER}"
        self._decoder.reset()
        return rest.encode("utf-8", "surrogatepass")


def kind_of(path: Path) -> str:
    """What a file holds by its name: its suffix, the one before where it is compressed."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


@contextmanager
def open_stream(path: Path, source: str) -> Iterator[IO[bytes]]:
    """The bytes of a file in UTF-8, without a byte-order mark.

    Raises:
        DataError: the file is cut off, damaged, or grows beyond all measure.
        Missing: it is a .zst file, and the package for it is not there.
    """
    with path.open("rb", CHUNK) as file:
        stream: Any = file
        if path.suffix.lower() in COMPRESSED:
            inner = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else _zstandard(file)
            stream = io.BufferedReader(_Bounded(inner, path.stat().st_size, source), CHUNK)
        try:
            yield _recode(stream, source)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _cut_off(error, source) from error
        except OSError as error:
            if type(error) is OSError and error.errno is None:  # Arrow's, for a damaged .zst file
                raise _cut_off(error, source) from error
            raise


def _cut_off(error: Exception, source: str) -> DataError:
    return DataError(
        f"the compressed file is damaged or cut off: {error}",
        where=source,
        fix="copy or download it again; nothing of it was used",
    )


def _recode(stream: Any, source: str) -> IO[bytes]:
    start = stream.peek(4)[:4]
    for mark, what, fix in OTHERS:
        if start.startswith(mark):
            raise DataError(f"its first bytes are those of {what}", where=source, fix=fix)
    if start.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
        return stream  # type: ignore[no-any-return]
    for mark, encoding in BOMS:
        if start.startswith(mark) and b"\0" in start:
            stream.read(len(mark))
            return io.BufferedReader(_Recoded(stream, encoding), CHUNK)
    if start[:2] in (b"{\0", b"[\0"):  # UTF-16 without a mark, as PowerShell writes it
        return io.BufferedReader(_Recoded(stream, "utf-16-le"), CHUNK)
    if start[:2] in (b"\0{", b"\0["):
        return io.BufferedReader(_Recoded(stream, "utf-16-be"), CHUNK)
    return stream  # type: ignore[no-any-return]


def _zstandard(file: IO[bytes]) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise missing("reading .zst files", "pyarrow") from error
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


def missing(what: str, package: str) -> Missing:
    """The error for a package of the extra `data`."""
    return Missing(f"{what} needs the package {package}", fix="pip install 'luthier[data]'")
