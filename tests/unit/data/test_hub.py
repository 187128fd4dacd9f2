"""Data sets of the hub, through the real client against a stand-in on this machine."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from luthier.data.hub import Wanted, choose, fetch, parse
from luthier.data.read import read_rows
from luthier.errors import DataError, Missing

COMMIT = "c" * 40


def table(*texts: str) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"question": list(texts), "answer": ["a"] * len(texts)}), out)
    return out.getvalue()


CONVERTED = {
    "default/train/0000.parquet": table("one", "two"),
    "default/train/0001.parquet": table("three"),
    "default/test/0000.parquet": table("held"),
}
PLAIN = {"README.md": b"hi", "data/train.jsonl": b'{"question": "q", "answer": "a"}\n'}
REPOSITORIES = {("o/d", "refs/convert/parquet"): CONVERTED, ("o/d", "main"): PLAIN, ("o/plain", "main"): PLAIN}


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].replace("%2F", "/")
        for (repo, revision), files in REPOSITORIES.items():
            for name in (revision, COMMIT if revision != "main" else "m" * 40):
                commit = COMMIT if revision != "main" else "m" * 40
                known = f"/api/datasets/{repo}/revision/{name}"
                if path == known or (revision == "main" and known.startswith(f"{path}/")):
                    listed = [{"rfilename": file} for file in files]
                    return self.answer(json.dumps({"id": repo, "sha": commit, "siblings": listed}).encode(), commit)
                if path.startswith(f"/api/datasets/{repo}/tree/{name}"):
                    listed = [
                        {"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                        for file, body in files.items()
                    ]
                    return self.answer(json.dumps(listed).encode(), commit)
                for file, body in files.items():
                    if path == f"/datasets/{repo}/resolve/{name}/{file}":
                        return self.answer(body, commit)
        known = any(f"/{repo}/" in path for repo, _ in REPOSITORIES)
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def answer(self, body: bytes, commit: str) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_rows_come_from_the_parquet_files(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    files = fetch("hub:o/d", endpoint=endpoint, cache=tmp_path)
    assert [name for _, name in files] == ["hub:o/d/default/train/0000.parquet", "hub:o/d/default/train/0001.parquet"]
    rows = [row for path, name in files for row in read_rows(path, name)]
    assert [row.value["question"] for row in rows if row.value] == ["one", "two", "three"]
    (held,) = fetch("hub:o/d/default/test", endpoint=endpoint, cache=tmp_path)
    assert next(read_rows(*held)).value == {"question": "held", "answer": "a"}
    (plain,) = fetch("hub:o/plain", endpoint=endpoint, cache=tmp_path)  # the hub has made no parquet files of it
    assert plain[1] == "hub:o/plain/data/train.jsonl"
    assert next(read_rows(*plain)).value == {"question": "q", "answer": "a"}


def test_what_the_hub_has_not_is_said_and_the_cache_serves_without_it(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    with pytest.raises(DataError, match="no split 'dev'") as error:
        fetch("hub:o/d/default/dev", endpoint=endpoint, cache=tmp_path)
    assert "test, train" in str(error.value.fix)
    with pytest.raises(DataError, match="no such data set"):
        fetch("hub:o/none", endpoint=endpoint, cache=tmp_path)
    before = fetch("hub:o/d", endpoint=endpoint, cache=tmp_path)
    hub.shutdown()
    hub.server_close()
    assert fetch("hub:o/d", endpoint=endpoint, cache=tmp_path) == before
    with pytest.raises(Missing, match="not in the cache"):
        fetch("hub:o/plain", endpoint=endpoint, cache=tmp_path)


def test_names() -> None:
    assert parse("hub:o/d") == Wanted("o/d", None, "train", None)
    assert parse("hub:o/d/main/test@v1.0") == Wanted("o/d", "main", "test", "v1.0")
    for wrong in ("hub:d", "hub:", "hub:o/d/a/b/c", "hub:o d/x"):
        with pytest.raises(DataError, match="not the name"):
            parse(wrong)


def test_the_subset_is_named_where_there_are_several() -> None:
    names = ["main/train/0000.parquet", "socratic/train/0000.parquet"]
    with pytest.raises(DataError, match="subsets main, socratic"):
        choose(names, Wanted("o/d", None, "train", None), "hub:o/d")
    assert choose(names, Wanted("o/d", "main", "train", None), "") == names[:1]
    older = [f"data/{name}-of-00002.parquet" for name in ("train-00000", "train-00001", "test-00000")]
    assert choose(older, Wanted("o/d", None, "train", None), "") == older[:2]
