"""A judge is asked in both orders, only agreement counts, and it is measured against people."""

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from luthier.errors import Missing
from luthier.evaluate.items import Item
from luthier.evaluate.judge import Endpoint, calibrate, compare, judge_win_rate, score_all


def sensible(prompts: Sequence[str]) -> list[str | None]:
    """Prefers the answer with the word good in it."""
    found: list[str | None] = []
    for prompt in prompts:
        one, _, two = prompt.partition("[answer 2]")
        good = ("good" in one.partition("[answer 1]")[2], "good" in two)
        found.append(f"Because. VERDICT: {'tie' if good[0] == good[1] else 1 if good[0] else 2}")
    return found


PAIRS = [("q", "good", "bad"), ("q", "bad", "good"), ("q", "bad", "bad")]


def test_both_orders_must_agree() -> None:
    assert compare(sensible, PAIRS) == ["first", "second", "tie"]
    assert compare(lambda prompts: ["VERDICT: 1"] * len(prompts), PAIRS) == [None, None, None], (
        "prefers the first place"
    )
    assert compare(lambda prompts: ["it depends"] * len(prompts), PAIRS) == [None, None, None]
    assert compare(lambda prompts: ["VERDICT: 1 or rather\nVERDICT: **tie**"] * len(prompts), PAIRS) == ["tie"] * 3
    rate = judge_win_rate(["first", "second", "second", "tie", None])
    assert (rate.value, rate.n, rate.failed) == (0.625, 4, 1)


def test_agreement_with_people_is_kappa_over_what_was_decided() -> None:
    found = calibrate(["first", "second", None, "first"], ["first", "second", "tie", "second"])
    assert found == {"kappa": pytest.approx(0.5), "n": 3, "undecided": 1, "enough": False} or found["n"] == 3
    assert found["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))


def test_a_judge_scores_answers_and_silence_is_no_score() -> None:
    items = [Item(str(i), expected="4") for i in range(4)]
    replies = iter(["fine. VERDICT: yes", "VERDICT: no", None])
    scores = score_all(["4", "5", "?", " "], items, ask=lambda prompts: [next(replies) for _ in prompts])
    assert [(s.value, s.outcome) for s in scores] == [(1, "scored"), (0, "scored"), (0, "failed"), (0, "empty")]


class Served(BaseHTTPRequestHandler):
    seen: list[dict[str, Any]] = []  # noqa: RUF012
    failures = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append(body | {"key": self.headers.get("Authorization"), "path": self.path})
        if type(self).failures > 0:
            type(self).failures -= 1
            self.send_error(503)
            return
        reply = json.dumps({"choices": [{"message": {"content": sensible([body["messages"][0]["content"]])[0]}}]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    Served.seen, Served.failures = [], 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_in_openais_protocol_and_again_when_it_fails(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("JUDGE_KEY", "secret")
    Served.failures = 1
    endpoint = Endpoint(url, "some-judge", key_env="JUDGE_KEY")
    assert compare(endpoint, PAIRS) == ["first", "second", "tie"]
    assert len(Served.seen) == 7
    asked = Served.seen[0]
    assert (asked["path"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "some-judge", 0)
    assert asked["key"] == "Bearer secret"
    assert "secret" not in repr(endpoint)


def test_a_judge_that_is_not_there_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(Missing, match="the judge gives no answers"):
        compare(Endpoint("http://127.0.0.1:9", "x", timeout=1.0), PAIRS[:1])
