"""Files of every kind, whole and broken: never a traceback, never a lost row, memory bounded."""

import gzip
import io
import json
import os
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any

import docx
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from luthier.data import RawRow, lines, raw, read_rows
from luthier.data.extract import passages
from luthier.data.read import files_in, find_files
from luthier.errors import DataError, Missing

ROWS = [{"question": f"Frage {i} \u00e4\u4e2d\U0001f600", "answer": 'say "yes",\nthen\tno'} for i in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read(path: Path, **more: Any) -> list[RawRow]:
    return list(read_rows(path, path.name, **more))


def values(path: Path) -> list[Any]:
    return [row.value or row.problem for row in read(path)]


def compressed(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


def as_csv(separator: str = ",") -> bytes:
    quoted = ['"' + cell.replace('"', '""') + '"' for row in ROWS for cell in row.values()]
    body = "\r\n".join(separator.join(quoted[i : i + 2]) for i in range(0, len(quoted), 2))
    return f"question{separator}answer\r\n{body}\r\n".encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.replace(b"\n", b"\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl", LINES.decode().encode("utf-16")),
        ("a.jsonl", LINES.decode().encode("utf-16-le")),
        ("a.jsonl", b"\xfe\xff" + LINES.decode().encode("utf-16-be")),
        ("a.jsonl", LINES.replace(b"\n", b"\r")),
        ("a.jsonl", LINES.replace(b"\n", b"\r\n", 2).replace(b"\n{", b"\r{", 1)),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.gz", gzip.compress(LINES[:200]) + gzip.compress(LINES[200:])),
        ("a.jsonl.zst", compressed(LINES)),
        ("a.json", json.dumps(ROWS).encode("utf-16")),
        ("a.json.gz", gzip.compress(json.dumps({"rows": ROWS}).encode())),
        ("a.csv", as_csv()),
        ("a.csv", b"\xef\xbb\xbf" + as_csv(";")),
        ("a.csv.gz", gzip.compress(as_csv())),
        ("a.tsv", as_csv("\t").decode().encode("utf-16")),
        ("a.parquet", as_parquet()),
    ],
)
def test_the_same_rows_from_every_kind_of_file(tmp_path: Path, name: str, content: bytes) -> None:
    rows = read(write(tmp_path / name, content))
    assert [row.value for row in rows] == ROWS
    assert len({row.digest for row in rows}) == 5


def test_rows_keep_their_lines(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.csv", as_csv()))
    assert [row.line for row in rows] == [2, 4, 6, 8, 10]  # each cell has a line break in it


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_first_row_of_a_table_may_span_lines(tmp_path: Path, end: str) -> None:
    question = ['"What is said here,', 'over two lines?"', "this", "that", "both", "none", "C"]
    mmlu = f"{end.join(question[:2])},{','.join(question[2:])}{end}Another?,a,b,c,d,B{end}"
    found = read(write(tmp_path / "mmlu.csv", mmlu.encode()))
    assert [row.line for row in found] == [1, 3]
    assert [row.value["answer"] for row in found if row.value] == ["C", "B"]
    assert found[0].value is not None
    assert found[0].value["question"].split() == "What is said here, over two lines?".split()
    header = f'"question{end}(English)",answer{end}a,b{end}'
    assert [(row.line, row.value) for row in read(write(tmp_path / "a.csv", header.encode()))] == [
        (3, {f"question{end}(English)": "a", "answer": "b"})
    ]
    inches = f'size 5",question{end}a,b{end}c,d{end}'  # no quote that opens a cell
    assert [row.line for row in read(write(tmp_path / "b.csv", inches.encode()))] == [2, 3]


@pytest.mark.parametrize("wide", [True, False])
def test_a_row_of_a_table_with_too_many_or_too_few_cells_gets_a_fate(tmp_path: Path, wide: bool) -> None:
    found = values(write(tmp_path / "a.csv", b"question,answer\na,b\n" + (b"a,b,c\n" if wide else b"a\n") + b"c,d\n"))
    assert [getattr(row, "name", None) for row in found] == [None, "wrong_width", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(LINES * 50)[:-20], "cut off"),
        ("a.jsonl.gz", LINES, "damaged or cut off"),
        ("a.jsonl.gz", gzip.compress(LINES)[:15] + b"\xff" * 40, "damaged or cut off"),
        ("a.jsonl.zst", compressed(os.urandom(3000).hex().encode())[:-20], "cut off"),
        ("a.jsonl.zst", LINES, "damaged or cut off"),
        ("a.csv", b'question,answer\na,b\n"open,b\nc,d\n', "begins in line 3"),
        ("a.csv", b"question,question\na,b\n", "two columns have the name 'question'"),
        ("a.csv", b"fr\xe9ge,answer\na,b\n", "not UTF-8"),
        ("a.parquet", as_parquet()[:-100], "damaged or no parquet file"),
        ("a.parquet", b"PAR1", "damaged or no parquet file"),
        ("a.json", b"[" + json.dumps(ROWS[0]).encode(), "not JSON"),
    ],
)
def test_a_broken_file_is_refused_with_a_way_out(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(write(tmp_path / name, content))
    assert str(error.value.where).startswith(name)
    assert error.value.fix


def test_broken_cells_spoil_one_row(tmp_path: Path) -> None:
    found = values(write(tmp_path / "a.csv", b"question,answer\na,b\nfr\xe9ge,b\nc,d\0\n"))
    assert [getattr(row, "name", None) for row in found] == [None, "not_utf8", None]
    lone = '{"question": "\ud800", "answer": "a"}\n'.encode("utf-16-le", "surrogatepass")
    found = values(write(tmp_path / "a.jsonl", b"\xff\xfe" + lone + LINES.decode().encode("utf-16-le")))
    assert [getattr(row, "name", None) for row in found] == ["not_utf8", *[None] * 5]


def test_structured_cells_are_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}]
    cell = json.dumps(turns).replace('"', '""')
    found = values(write(tmp_path / "a.csv", f'messages,question\n"{cell}",\n,[no json\n'.encode()))
    assert found == [{"messages": turns, "question": ""}, {"messages": None, "question": "[no json"}]


def test_a_line_beyond_all_measure_is_counted_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LARGEST_ROW", 1000)
    monkeypatch.setattr(raw, "LARGEST_ROW", 1 << 20)
    monkeypatch.setattr(lines, "STEP", 64)
    long = b'{"text": "' + b"x" * 5000 + b'"}'
    found = values(write(tmp_path / "a.jsonl", LINES + long + b"\n" + LINES + long))
    assert [getattr(row, "name", None) for row in found] == [*[None] * 5, "too_large", *[None] * 5, "too_large"]


@pytest.mark.parametrize("compress", [gzip.compress, compressed], ids=["gz", "zst"])
def test_a_bomb_stops(tmp_path: Path, compress: Any) -> None:
    path = write(tmp_path / f"a.jsonl.{'gz' if compress is gzip.compress else 'zst'}", compress(bytes(90 << 20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="times larger when decompressed"):
        read(path)
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_long_list_is_gone_through_value_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(lines, "WHOLE", 10)
    monkeypatch.setattr(lines, "STEP", step)
    for indent in (None, 2):
        content = json.dumps([*ROWS, 12, 3.5, "x"], ensure_ascii=False, indent=indent).encode()
        rows = read(write(tmp_path / "a.json", content))
        assert [row.value for row in rows] == [*ROWS, None, None, None]
        with pytest.raises(DataError, match="not JSON after"):
            read(write(tmp_path / "a.json", content[:-20]))
    with pytest.raises(DataError, match="an object of more than"):
        read(write(tmp_path / "a.json", b'{"rows": [' + b"1," * 50 + b"1]}"))


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    write(tmp_path / "data" / "b.jsonl", LINES)
    write(tmp_path / "data" / "deep" / "c.txt", b"Text.")
    write(tmp_path / "data" / "a.csv", as_csv())
    write(tmp_path / "data" / "photo.jpg", b"")
    write(tmp_path / "data" / ".hidden.jsonl", b"")
    (tmp_path / "data" / "deep" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data" / "runs" / "artifacts" / "dataset-1").mkdir(parents=True)
    write(tmp_path / "data" / "runs" / "artifacts" / "dataset-1" / "artifact.json", b"{}")
    write(tmp_path / "data" / "runs" / "verdicts.jsonl", b"{}")
    found = find_files("data", tmp_path)
    assert [name for _, name in found.files] == ["data/a.csv", "data/b.jsonl", "data/deep/c.txt"]
    assert list(found.left_out) == ["photo.jpg"]
    before = found.digest()
    write(tmp_path / "data" / "deep" / "c.txt", b"Text!")
    assert find_files("data", tmp_path).digest() != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file that is read"):
        files_in(tmp_path / "empty", "empty")


PARAGRAPHS = "\n\n".join(f"Paragraph {i}. " + "word " * 30 for i in range(20)) + "\n"


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{4 + 2 * i} 0 R' for i in range(len(pages)))}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {font} /Contents {5 + 2 * i} 0 R >>"
        objects += [page, f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream"]
    out, starts = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        starts.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return out + f"{head}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n".encode()


def word(*blocks: str) -> bytes:
    document, out = docx.Document(), io.BytesIO()
    for block in blocks:
        document.add_paragraph(block)
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "left", "right"
    document.save(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"One.\n\nTwo.", [(None, "One.\n\nTwo.")]),
        ("a.md", "# T\n\ntext".encode("utf-16"), [(None, "# T\n\ntext")]),
        ("a.html", b"<nav>menu</nav><main><h1>Head</h1><p>Body &amp; soul</p></main>", [(None, "Head\n\nBody & soul")]),
        ("a.html", "<meta charset=latin1><p>fr\u00e9ge</p>".encode("latin-1"), [(None, "fr\u00e9ge")]),
        ("a.pdf", pdf("First page", "", "Third page"), [(1, "First page"), (3, "Third page")]),
        ("a.docx", word("One.", "Two."), [(None, "One.\n\nTwo.\n\nleft\tright")]),
    ],
)
def test_documents_become_text(tmp_path: Path, name: str, content: bytes, expected: list[tuple[Any, str]]) -> None:
    rows = read(write(tmp_path / name, content))
    assert [(row.value["page"], row.value["text"].strip()) for row in rows if row.value] == expected
    assert {row.document for row in rows} == {name}


def test_passages_say_where_they_are_from(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.txt", PARAGRAPHS.encode()), passage=400)
    found = [row.value for row in rows if row.value]
    assert "".join(value["text"] for value in found) == PARAGRAPHS
    assert all(PARAGRAPHS[value["start"] : value["end"]] == value["text"] for value in found)
    assert all(len(value["text"]) <= 400 and value["text"].startswith("Paragraph") for value in found)
    assert [row.line for row in rows] == list(range(1, len(rows) + 1))


@given(st.text(st.sampled_from("ab .\n\r\t\u2029"), max_size=300), st.integers(1, 40))
def test_no_letter_of_a_document_is_lost(text: str, most: int) -> None:
    parts = list(passages(text, most))
    assert "".join(text[a:b] for a, b in parts) == (text if text.strip() else "")
    assert all(len(text[a:b].rstrip()) <= most for a, b in parts)
    assert all(b > a for a, b in parts)


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(80 << 20))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "fate"),
    [
        ("a.pdf", b"%PDF-1.4 nothing", "unreadable"),
        ("a.pdf", pdf(""), "empty_document"),
        ("a.docx", b"no zip", "unreadable"),
        ("a.docx", word("x")[:-200], "unreadable"),
        ("a.txt", b"\xff\xff\xff", "unreadable"),
        ("a.txt", b" \n ", "empty_document"),
        ("a.html", b"", "empty_document"),
    ],
)
def test_a_document_without_text_is_one_row_with_the_reason(
    tmp_path: Path, name: str, content: bytes, fate: str
) -> None:
    (row,) = read(write(tmp_path / name, content))
    assert row.problem is not None
    assert (row.problem.name, row.value) == (fate, None)


def test_a_word_bomb_is_not_opened(tmp_path: Path) -> None:
    (row,) = read(write(tmp_path / "a.docx", bomb()))
    assert row.problem is not None
    assert "when decompressed" in row.problem.reason


def test_what_is_missing_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (
        ("a.parquet", "pyarrow"),
        ("a.pdf", "pypdfium2"),
        ("a.docx", "docx"),
        ("a.html", "resiliparse"),
    ):
        hidden = [module for module in sys.modules if module.split(".")[0] == package]
        for module in (package, *hidden):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(Missing, match=r"needs the package") as error:
            read(write(tmp_path / name, b"x"))
        assert "pip install 'luthier[data]'" in str(error.value)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(30):
        write(folder / f"{i:02d}.txt", "\n\n".join(f"t{i}p{k} " * 45 for k in range(4)).encode())
    return folder


def test_a_folder_of_documents_becomes_a_dataset(bench: Any, documents: Path) -> None:
    source = {"path": documents.name, "passage": 300}
    facts = bench.curate(sources=[source], split={"validation": 0.3}, curate={"near_duplicates": None})
    assert facts["fates"] == {"kept": 120}
    sides: dict[str, set[str]] = {}
    for line in bench.ledger:
        sides.setdefault(line["source"], set()).add(line["split"])
    assert len(sides) == 30
    assert all(len(side) == 1 for side in sides.values())  # a document is never on both sides
    assert set.union(*sides.values()) == {"train", "validation"}
