"""vLLM started beside a release: it is waited for, ended, and what keeps it from starting is said."""

import os
import time
import urllib.request
from pathlib import Path

import pytest

from luthier.errors import Missing
from luthier.serve.vllm import Job, started

WORKS = """#!/usr/bin/env python3
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
FAILS = "#!/bin/sh\necho 'INFO starting'\necho 'ValueError: No available memory for the cache blocks.' >&2\nexit 1\n"
JOB = Job("model", "tiny", "float32", 256, memory=0.5)


def install(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "vllm").write_text(text)
    (folder / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_it_is_there_while_it_is_asked_and_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, WORKS, monkeypatch)
    with started(JOB) as port:
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health")


def test_its_last_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, FAILS, monkeypatch)
    before = time.monotonic()
    words = "vLLM does not begin to answer: ValueError: No available memory"
    with pytest.raises(Missing, match=words) as caught, started(JOB):
        pass
    assert "vllm serve model --served-model-name tiny" in str(caught.value.fix)
    assert time.monotonic() - before < 60


def test_its_share_of_the_memory_is_a_flag() -> None:
    flags = JOB.arguments("127.0.0.1", 1)
    assert flags[flags.index("--gpu-memory-utilization") + 1] == "0.5"
    assert "--gpu-memory-utilization" not in Job("model", "tiny", "float32", 256).arguments("127.0.0.1", 1)
