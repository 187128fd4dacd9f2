"""Files as they come out of the real world: told in one sentence, in memory that stays bounded, and no row is lost."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from luthier.data.extract import DEEPEST
from luthier.data.raw import RawRow
from luthier.data.read import files_in, read_rows
from luthier.data.shapes import Reading
from luthier.data.shard import Feed, _shards
from luthier.errors import DataError

ROW = b'{"question": "q", "answer": "a"}\n'


def rows(path: Path) -> list[RawRow]:
    return list(read_rows(path, path.name))


@pytest.mark.parametrize(
    ("body", "what", "fix"),
    [
        (gzip.compress(ROW), "a gzip file", "rows.jsonl.gz"),
        (b"PAR1" + bytes(20), "a Parquet file", ".parquet"),
        (b"PK\x03\x04" + bytes(20), "a zip file", "unpack"),
        (ROW.decode().encode("utf-32"), "a text in UTF-32", "UTF-8"),
    ],
)
def test_a_file_with_the_wrong_name_is_told_by_its_first_bytes(
    tmp_path: Path, body: bytes, what: str, fix: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(body)
    with pytest.raises(DataError, match=what) as error:
        rows(path)
    assert fix in str(error.value.fix)


def test_a_key_that_stands_twice_is_told_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    twice = b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}\n'
    path.write_bytes(ROW + b'{"question": "first", "question": "second", "answer": "a"}\n' + twice)
    found = rows(path)
    assert found[0].value == {"question": "q", "answer": "a"}
    for row, key in zip(found[1:], ("question", "content"), strict=True):
        assert row.problem is not None
        assert (row.problem.name, f"'{key}' stands twice" in row.problem.reason) == ("not_json", True)


def test_a_list_in_a_file_of_lines_is_told_the_name_it_should_have(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps([{"question": "q"}]).encode())
    (row,) = rows(path)
    assert row.problem is not None
    assert "name it .json" in row.problem.reason


def test_an_empty_file_among_others_is_a_row_and_stops_nothing(bench: Any, asked: Any) -> None:
    folder = bench.folder / "many"
    folder.mkdir()
    (folder / "b.jsonl").write_bytes(b"")
    bench.write(*asked(20), name="many/a.jsonl")
    facts = bench.curate(sources=[{"path": "many"}])
    assert facts["fates"] == {"kept": 20, "empty_file": 1}
    assert bench.ledger[-1]["source"] == "many/b.jsonl"
    with pytest.raises(DataError, match="the file holds nothing"):
        bench.curate(sources=[{"path": "many/b.jsonl"}])


def test_shards_of_large_cells_hold_few_rows(tmp_path: Path) -> None:
    """A text that a Parquet file holds once may stand in it a thousand times: 3 GB out of a few kilobytes."""
    text = "word " * 600_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([text]))
    parquet.write_table(pa.table({"text": column}), tmp_path / "rows.parquet", compression="zstd")
    assert (tmp_path / "rows.parquet").stat().st_size < 1 << 20
    (tmp_path / "rows.csv").write_text("question,answer\n" + f'q,"{text}"\n' * 4)
    (tmp_path / "rows.json").write_text(json.dumps([{"text": text}] * 4))
    for name in ("rows.parquet", "rows.csv", "rows.json"):
        (tmp_path / name).rename(folder := tmp_path / f"only-{name}")
        feed = Feed(0, files_in(tmp_path, "x")._replace(files=[(folder, name)]), 4000, Reading())
        assert len(next(iter(_shards(feed))).rows) <= 2


def test_a_row_of_a_parquet_file_beyond_measure_is_counted_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["x" * (40 << 20), "a text"]}), path)
    first, second = rows(path)
    assert first.problem is not None
    assert first.problem.name == "too_large"
    assert second.value == {"text": "a text"}


def test_a_page_nested_without_end_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<div>" * 200_000 + "text")
    (row,) = rows(path)
    assert row.problem is not None
    assert "nested more than" in row.problem.reason
    path.write_text("<p>one<br>" * (2 * DEEPEST) + "<div><span>text</span></div>" * (2 * DEEPEST))
    assert rows(path)[0].value is not None


def test_plain_texts_that_are_too_long_are_offered_to_be_divided(bench: Any) -> None:
    long = [{"text": f"Text {i}. " + "word " * 400} for i in range(4)]
    with pytest.raises(DataError, match="too_long") as error:
        bench.curate(*long)
    assert "data.too_long=split" in str(error.value.fix)
    with pytest.raises(DataError) as error:
        bench.curate(*long, too_long="error")
    assert "split" in str(error.value.fix)
    talk = {"question": "q " * 800, "answer": "a"}
    with pytest.raises(DataError) as error:
        bench.curate(talk)
    assert "split" not in str(error.value.fix)
