"""Whatever lies in a file of rows, the command line ends with a sentence or a dataset; nothing half-made stays."""

import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import scenes
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from luthier.cli.main import main

SOUND = [json.dumps(row).encode() for row in scenes.conversations(12)]
NASTY = [
    b"",
    b"   ",
    b"\xff\xfe{\0",
    b"\xef\xbb\xbf" + SOUND[0],
    b"{",
    b"[" * 50_000,
    b'{"messages": ' * 2_000,
    b"\0",
    b"null",
    b'"text"',
    b"1e999",
    b'{"text": NaN}',
    b'{"text": ""}',
    rb'{"text": "\ud800"}',
    b'{"text": "' + b"a" * 300_000 + b'"}',
    b'{"n": ' + b"1" * 5_000 + b"}",
    b'{"messages": [{"role": "user"}]}',
    b'{"messages": {"role": "user", "content": "a"}}',
    b'{"question": 1, "answer": [2]}',
    b'{"instruction": null, "output": "x"}',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
    '{"question": "[/bold] \N{LINE SEPARATOR} \x1b[2J", "answer": "\x85"}'.encode(),
    json.dumps({f"column {i}": i for i in range(100_000)}).encode(),
]
lines = st.one_of(
    st.sampled_from(SOUND),
    st.sampled_from(NASTY),
    st.binary(max_size=40),
    st.tuples(st.sampled_from(SOUND), st.integers(0, 60)).map(lambda p: p[0][: p[1]]),
    st.tuples(st.sampled_from(SOUND), st.integers(0, 60), st.binary(min_size=1, max_size=4)).map(
        lambda p: p[0][: p[1]] + p[2] + p[0][p[1] :]
    ),
)


@cache
def base() -> Path:
    return scenes.make_base(Path(tempfile.mkdtemp(prefix="base-")))


def curate(folder: Path, content: bytes, suffix: str, most: float) -> tuple[int, Any, str]:
    """Exit code, document and what a person reads."""
    (folder / f"rows{suffix}").write_bytes(content)
    body = scenes.recipe(base(), f"rows{suffix}")
    body["data"]["max_rejected"] = most
    recipe = scenes.write_recipe(folder / "recipe.yaml", body)
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["luthier", "curate", str(recipe), "--runs", str(folder / "runs"), "--json"]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    finally:
        sys.argv = before
    return code, json.loads(out.getvalue()), err.getvalue()


def check(content: bytes, suffix: str, most: float) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code, document, said = curate(folder, content, suffix, most)
        whole = [p for p in (folder / "runs" / "artifacts").glob("dataset-*") if p.suffix != ".partial" and p.is_dir()]
        assert not list(folder.rglob("*.luthier-tmp"))
        if code == 0:
            rows = document["rows"]
            assert rows.pop("read") == sum(rows.values())
            assert len((whole[0] / "ledger.jsonl").read_bytes().splitlines()) == sum(rows.values())
        else:
            assert code == 3
            assert not whole
            assert said.startswith("error: ")
            assert "next: " in said
            assert len(said) < 6_000
            assert document["error"]["fix"]
            assert not any(sign in said for sign in "\x1b\0\x85")
        return code


@given(st.lists(lines, max_size=16), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([b"\n", b"\r\n"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@example(NASTY, 1.0, b"\n")
@example(NASTY + SOUND, 1.0, b"\n")
@example([*SOUND, SOUND[0][:30]], 0.2, b"\n")
def test_lines(rows: list[bytes], most: float, ending: bytes) -> None:
    check(ending.join(rows), ".jsonl", most)


@given(st.lists(lines, max_size=6), st.sampled_from([b"[%s]", b'{"rows": [%s]}', b"%s", b"[%s"]))
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_documents(rows: list[bytes], form: bytes) -> None:
    check(form.replace(b"%s", b", ".join(rows)), ".json", 1.0)


def test_half_a_line_at_the_end_is_one_fate_and_sound_rows_are_kept() -> None:
    assert check(b"\n".join([*SOUND, SOUND[0][:30]]), ".jsonl", 0.2) == 0


def test_a_file_of_nothing_is_named() -> None:
    for content in (b"", b"\n \n", os.linesep.encode() * 3):
        with tempfile.TemporaryDirectory() as name:
            code, _, said = curate(Path(name), content, ".jsonl", 1.0)
            assert code == 3
            assert "rows.jsonl: no rows: the file holds nothing" in said
