"""Documents as rows of plain text: .txt, .md, .html, .pdf and .docx, divided into passages between paragraphs.

Every letter of a document stands in exactly one passage: the texts of its passages, put together, are the document as
it was extracted. A row says which document and page it is from and where in it the passage begins and ends.
"""

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from luthier.data.raw import RawRow
from luthier.data.stream import FREE_BYTES, MOST_RATIO, missing, open_stream
from luthier.errors import DataError
from luthier.types import Fate

LARGEST_TEXT = 256 << 20
"""Bytes of a document above which it is refused."""
DEEPEST = 3_000
"""Elements inside of one another: the extractor takes time with the square of it, and no page comes near."""
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_FLAT = frozenset(
    "p li br img hr input meta link td tr th tbody thead tfoot option dt dd col area base embed source wbr".split()
)
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_WEAKER = (re.compile(r"\n"), re.compile(r"[.!?\u3002]['\"\u201d\u2019)\]]*\s+"), re.compile(r"\s+"))
"""Where to part a paragraph that is too long by itself: between lines, sentences, words."""


def read_document(path: Path, source: str, passage: int) -> Iterator[RawRow]:
    """The passages of one document, in order, none longer than `passage` letters.

    A document that cannot be read is one row with the reason; so is one without text, such as a scanned page.
    """
    suffix = path.suffix.lower()
    line = 0
    try:
        for page, text in EXTRACTORS[suffix](path, source):
            for start, end in passages(text, passage):
                line += 1
                value = {"text": text[start:end], "document": source, "page": page, "start": start, "end": end}
                mark = hashlib.sha256(text[start:end].encode("utf-8", "surrogatepass")).hexdigest()
                yield RawRow(source, line, value, None, mark, document=source, size=end - start)
    except _UnreadableError as error:
        yield RawRow(source, line + 1, None, Fate("unreadable", str(error)), _mark(path))
        return
    if not line:
        yield RawRow(source, 1, None, Fate("empty_document", "no text was found in it"), _mark(path))


def _mark(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _UnreadableError(Exception):
    """A document that its extractor refuses."""


def passages(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Where to part a text so that no part has more than `most` letters and each ends after a paragraph if it can.

    Parts without a letter or digit are joined to a neighbour, so that none is empty. Nothing is left out.
    """
    if not text.strip():
        return
    start = 0
    while len(text) - start > most:
        end = _last_break(text, start, start + most)
        if not text[end:].strip():  # only white space is left: it belongs to this passage
            break
        yield start, end
        start = end
    yield start, len(text)


def _last_break(text: str, start: int, limit: int) -> int:
    for pattern in (_PARAGRAPH, *_WEAKER):
        ends = [found.end() for found in pattern.finditer(text, start, limit)]
        good = [end for end in ends if start < end < limit and text[start:end].strip()]
        if good and (pattern is not _WEAKER[-1] or good[-1] > start):
            return good[-1]
    return limit


def _plain(path: Path, source: str) -> Iterator[tuple[int | None, str]]:
    with open_stream(path, source) as stream:
        data = stream.read(LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise _UnreadableError(f"the document has more than {LARGEST_TEXT >> 20} MiB")
    try:
        yield None, data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"byte 0x{data[error.start]:02x} at {error.start:,} is not UTF-8") from error


def _html(path: Path, source: str) -> Iterator[tuple[int | None, str]]:
    """The main content, without navigation and the like; all of the text where no main content is found."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    except ImportError as error:
        raise missing("reading .html files", "resiliparse") from error
    with open_stream(path, source) as stream:
        data = stream.read(LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise _UnreadableError(f"the document has more than {LARGEST_TEXT >> 20} MiB")
    try:
        html = data.decode("utf-8")
    except UnicodeDecodeError:
        html = bytes_to_str(data, detect_encoding(data, from_html_meta=True) or "utf-8")
    if _depth(html) > DEEPEST:
        raise _UnreadableError(f"its elements are nested more than {DEEPEST:,} deep")
    text = extract_plain_text(html, main_content=True) or extract_plain_text(html)
    yield None, str(text)


def _depth(html: str) -> int:
    """How deep elements are nested at most; what closes by itself is not counted."""
    deepest = depth = 0
    for closing, name in _TAG.findall(html):
        if name.lower() not in _FLAT:
            depth = max(0, depth - 1) if closing else depth + 1
            deepest = max(deepest, depth)
    return deepest


def _pdf(path: Path, source: str) -> Iterator[tuple[int | None, str]]:  # noqa: ARG001 - the table gives both
    try:
        import pypdfium2
    except ImportError as error:
        raise missing("reading .pdf files", "pypdfium2") from error
    try:
        with pypdfium2.PdfDocument(path) as document:
            for i in range(len(document)):
                page = document[i]
                text = page.get_textpage().get_text_bounded()
                page.close()
                yield i + 1, text.replace("\r\n", "\n").replace("\ufffe", "")
    except pypdfium2.PdfiumError as error:
        raise _UnreadableError(f"no PDF that can be read: {error}") from error


def _docx(path: Path, source: str) -> Iterator[tuple[int | None, str]]:  # noqa: ARG001
    """Paragraphs and tables in their order; cells of a row are parted by tabs."""
    try:
        import docx
        from docx.opc.exceptions import OpcError
        from docx.table import Table
        from lxml.etree import XMLSyntaxError
    except ImportError as error:
        raise missing("reading .docx files", "python-docx") from error
    _refuse_bomb(path)
    try:
        document = docx.Document(str(path))
        blocks = [
            "\n".join("\t".join(cell.text for cell in row.cells) for row in block.rows)
            if isinstance(block, Table)
            else block.text
            for block in document.iter_inner_content()
        ]
    except (KeyError, ValueError, zipfile.BadZipFile, XMLSyntaxError, OpcError) as error:
        raise _UnreadableError(f"no Word document that can be read: {error}") from error
    yield None, "\n\n".join(block for block in blocks if block.strip())


def _refuse_bomb(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _UnreadableError(f"no Word document: {error}") from error
    if size > max(FREE_BYTES, path.stat().st_size * MOST_RATIO) or size > LARGEST_TEXT:
        raise _UnreadableError(f"it becomes {size >> 20:,} MiB when decompressed")


EXTRACTORS: dict[str, Callable[[Path, str], Iterator[tuple[int | None, str]]]] = {
    ".txt": _plain,
    ".md": _plain,
    ".markdown": _plain,
    ".rst": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".docx": _docx,
}


def refuse_compressed(path: Path, source: str) -> DataError:
    """The error for a document in a compressed file."""
    return DataError(f"a compressed document ('{path.name}') is not read", where=source, fix="decompress it first")
