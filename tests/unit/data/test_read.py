"""The reader: every row once, broken ones with a reason, files that are none refused with a way out."""

import json
import os
from pathlib import Path

import pytest

from luthier.data import RawRow, read_rows, resolve
from luthier.errors import DataError


def read(folder: Path, content: bytes, name: str = "rows.jsonl") -> list[RawRow]:
    (folder / name).write_bytes(content)
    return list(read_rows(folder / name, name))


def test_lines_are_numbered_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    rows = read(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"b": 2}')
    assert [(row.line, row.value, row.problem, row.source) for row in rows] == [
        (1, {"a": 1}, None, "rows.jsonl"),
        (4, {"b": 2}, None, "rows.jsonl"),
    ]


@pytest.mark.parametrize(
    ("line", "fate", "reason"),
    [
        (b'{"a": "half', "not_json", "not JSON at column 7: Unterminated string"),
        (b'{"a": 1} {"b": 2}', "not_json", "not JSON at column 10: Extra data"),
        (b"\0\0\0", "not_json", "not JSON at column 1"),
        (b'{"a": "\0"}', "not_json", "Invalid control character"),
        (b"[" * 100_000, "not_json", "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not_json", "digits"),
        (b'{"a": "\xe9"}', "not_utf8", "byte 0xe9 at column 8"),
        (rb'{"a": "x\ud800"}', "not_utf8", r"\ud800"),
        (rb'{"\uDFFF": 1}', "not_utf8", r"\udfff"),
        (b'["a"]', "not_object", "a JSON list where an object was expected"),
        (b"3.5", "not_object", "a JSON number"),
        (b'"a"', "not_object", "a JSON text"),
        (b"null", "not_object", "a JSON null"),
        (b"true", "not_object", "a JSON true"),
        (b"NaN", "not_object", "a JSON number"),
    ],
)
def test_a_broken_line_gets_a_fate_and_the_next_is_read(tmp_path: Path, line: bytes, fate: str, reason: str) -> None:
    rows = read(tmp_path, b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    assert len(rows) == 3
    assert rows[1].problem is not None
    assert rows[1].problem.name == fate
    assert reason in rows[1].problem.reason
    assert rows[1].value is None
    assert rows[2].value == {"b": 2}


def test_odd_but_sound_rows_are_read(tmp_path: Path) -> None:
    rows = read(tmp_path, rb'{"b": "\ud83d\ude00", "a": 2}' + b"\n" + '{"é": "\u2028"}'.encode())
    assert [row.value for row in rows] == [{"a": 2, "b": "😀"}, {"é": "\u2028"}]


def test_the_digest_is_that_of_the_row(tmp_path: Path) -> None:
    one, two, three = read(tmp_path, b'{"a": 1}\n {"a": 1}\r\n{"a": 2}\n')
    assert one.digest == two.digest != three.digest
    assert len(one.digest) == 64


@pytest.mark.parametrize(
    "content",
    [
        b'[{"a": 1}, [], {"b": 2}]',
        b'{"version": 1, "rows": [{"a": 1}, [], {"b": 2}]}',
        b'\xef\xbb\xbf[{"a": 1},0,{"b":2}]',
    ],
)
def test_a_document_holds_its_rows_in_one_list(tmp_path: Path, content: bytes) -> None:
    rows = read(tmp_path, content, "rows.json")
    assert [(row.line, row.value) for row in rows] == [(1, {"a": 1}), (2, None), (3, {"b": 2})]
    assert rows[1].problem is not None
    assert rows[1].problem.name == "not_object"


def test_half_a_character_spoils_one_row_of_a_document(tmp_path: Path) -> None:
    rows = read(tmp_path, rb'[{"a": "\ud800"}, {"a": "\ud83d\ude00"}]', "rows.json")
    assert [row.problem.name if row.problem else None for row in rows] == ["not_utf8", None]


@pytest.mark.parametrize(
    ("content", "name", "message", "where"),
    [
        (b'[\n{"a": 1},\n{"b"\n]', "rows.json", "not JSON at line 4", "rows.json:4"),
        (b'{"a": 1}\n{"b": 2}\n', "rows.json", ".jsonl", "rows.json:2"),
        (b'[\n{"a": "\xe9"}]', "rows.json", "byte 0xe9 at column 8", "rows.json:2"),
        (b"[" * 100_000, "rows.json", "nested too deeply", "rows.json"),
        (b"[" + b"9" * 10_000 + b"]", "rows.json", "digits", "rows.json"),
        (b"", "rows.json", "no rows", "rows.json"),
        (b"[]", "rows.json", "no rows", "rows.json"),
        (b'{"messages": []}', "rows.json", "one conversation", "rows.json"),
        (b'{"a": [], "b": []}', "rows.json", "an object with 2 lists", "rows.json"),
        (b"7", "rows.json", "a JSON number", "rows.json"),
        (b"", "rows.jsonl", "no rows", "rows.jsonl"),
        (b"\n \n\r\n", "rows.jsonl", "no rows", "rows.jsonl"),
        (b"a,b\n", "rows.csv", "no rows", "rows.csv"),
        (b"a,b\n", "rows.xlsx", "'.xlsx'", "rows.xlsx"),
        (b"a", "rows", "no suffix", "rows"),
    ],
)
def test_a_file_that_is_none_is_refused_with_a_way_out(
    tmp_path: Path, content: bytes, name: str, message: str, where: str
) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, content, name)
    assert message in str(error.value)
    assert error.value.where == where
    assert error.value.fix


def test_folders_and_unreadable_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        list(read_rows(tmp_path / "rows.jsonl", "rows.jsonl"))
    (tmp_path / "x.jsonl").write_text("{}")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"x.jsonl: cannot be read: Permission denied"):
        list(read_rows(tmp_path / "x.jsonl", "x.jsonl"))


def test_paths_are_looked_for_beside_the_recipe_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, working = tmp_path / "recipe", tmp_path / "working"
    for folder in (recipe, working):
        folder.mkdir()
        (folder / "both.jsonl").write_text("{}")
    (working / "one.jsonl").write_text("{}")
    monkeypatch.chdir(working)
    assert resolve("both.jsonl", recipe).absolute() == recipe / "both.jsonl"
    assert resolve("one.jsonl", recipe).absolute() == working / "one.jsonl"
    assert resolve(str(working / "one.jsonl"), recipe) == working / "one.jsonl"
    for missing in ("none.jsonl", "a" * 5000 + ".jsonl", "a\0b.jsonl", str(tmp_path / "none.jsonl")):
        with pytest.raises(DataError, match="there is no such file") as error:
            resolve(missing, recipe)
        assert error.value.where == missing
        assert error.value.fix


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"i": i}) for i in range(100_000)))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None  # noqa: PTH208
    rows = read_rows(path, "rows.jsonl")
    assert next(rows).value == {"i": 0}
    rows.close()  # type: ignore[attr-defined]
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
