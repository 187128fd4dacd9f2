"""`luthier compare --judge`: a stand-in endpoint judges two models, and is measured against labels and votes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import scenes


class Longest(BaseHTTPRequestHandler):
    """A judge that finds the longer answer better, whatever the order."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        one, _, two = text.partition("[answer 1]\n")[2].partition("\n\n[answer 2]\n")
        two = two.partition("\n\nSay in one sentence")[0]
        verdict = "tie" if len(one) == len(two) else "1" if len(one) > len(two) else "2"
        reply = json.dumps({"choices": [{"message": {"content": f"It says more.\nVERDICT: {verdict}"}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Longest)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    rows = [{"prompt": f"what of {i}?", "answer": "drum"} for i in range(12)]
    return scenes.write_rows(tmp_path / "suite.jsonl", rows)


def test_a_judge_decides_and_is_measured_against_labels(
    luthier: Any, base: Path, suite: Path, url: str, tmp_path: Path
) -> None:
    hh = [
        {
            "chosen": f"\n\nHuman: what of {i}?\n\nAssistant: {'much more' if i < 30 else 'x'} of {i}",
            "rejected": f"\n\nHuman: what of {i}?\n\nAssistant: short {i}" + " and long" * (i >= 30),
        }
        for i in range(40)
    ]
    empty = {"chosen": "\n\nHuman: Hm?\n\nAssistant:", "rejected": "\n\nHuman: Hm?\n\nAssistant: so"}
    labels = scenes.write_rows(tmp_path / "labels.jsonl", [*hh, empty])
    asked = ("--suite", suite, "--judge", "longest", "--judge-url", url)
    found = luthier("compare", base, "ukulele", *asked, "--labels", labels, "--json").document
    assert found["n"] + found["undecided"] == 12
    assert 0 <= found["low"] <= found["win_rate"] <= found["high"] <= 1
    calibration = found["calibration"]
    assert (calibration["n"], calibration["agreement"]) == (40, 0.75), "chosen is the longer one in 30 of 40"
    assert calibration["kappa"] == pytest.approx(0.5, abs=0.1)
    assert calibration["low"] < calibration["kappa"] < calibration["high"]
    assert calibration["left_out"] == 1
    assert not calibration["enough"]
    said = luthier("compare", base, "ukulele", *asked)
    assert "not measured against people" in said.out
    said = luthier("compare", base, "ukulele", *asked, "--labels", labels)
    assert "kappa 0." in said.out
    assert "fewer than 100" in said.out


def test_votes_are_labels_too(luthier: Any, base: Path, suite: Path, url: str) -> None:
    asked = ("--suite", suite)
    voted = luthier("compare", base, "ukulele", *asked, "--vote", "--rater", "ada", typed=b"l\nr\nt\nb\nl\nq\n")
    assert "votes: 5" in voted.out
    found = luthier("compare", base, "ukulele", "--suite", suite, "--judge", "longest", "--judge-url", url, "--json")
    assert found.document["calibration"]["n"] == 5
    assert found.document["calibration"]["labels"] == "votes.sqlite"


def test_a_local_model_judges_too(luthier: Any, base: Path, suite: Path) -> None:
    found = luthier("compare", base, "ukulele", "--suite", suite, "--judge", base, "--json").document
    assert found["undecided"] + found["n"] == 12, "a babbling judge decides nothing"


def test_what_would_do_nothing_is_refused(luthier: Any, base: Path, tmp_path: Path) -> None:
    said = luthier("compare", base, base, "--labels", "x.jsonl")
    assert (said.code, "--labels without --judge" in said.err) == (2, True)
    bad = scenes.write_rows(tmp_path / "bad.jsonl", [{"prompt": "q", "first": "a", "second": "b", "label": "left"}])
    said = luthier("compare", base, base, "--judge", "m", "--judge-url", "http://127.0.0.1:9/v1", "--labels", bad)
    assert said.code == 3
    assert "first, second or tie" in said.err
