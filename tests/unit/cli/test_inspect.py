"""`luthier inspect`: a row from the file to the trained tokens."""

from pathlib import Path
from typing import Any


def test_a_row_is_shown_as_read_as_turns_and_as_tokens(luthier: Any, done: Path) -> None:
    said = luthier("inspect", done, "--row", "1")
    assert said.code == 0
    for part in ("as read", "as a conversation", "as tokens", "user ", "assistant ", "trained"):
        assert part in said.out
    by_id = luthier("inspect", done, "--row", "1", "--ids").out
    assert by_id.count("\n") > said.out.count("\n")


def test_the_document_holds_exactly_the_trained_answer(luthier: Any, done: Path) -> None:
    rows = luthier("inspect", done, "--random", "3", "--json").document["rows"]
    assert len({row["where"] for row in rows}) == 3
    for row in rows:
        (pieces,) = row["rows"]
        answer = row["messages"][-1]["content"]
        trained = [piece for piece in pieces if piece["trained"]]
        assert len(trained) == 1
        assert trained[0]["text"].startswith(answer)
        assert row["trained"] == len(trained[0]["ids"])
        assert row["tokens"] == sum(len(piece["ids"]) for piece in pieces)
        assert answer in row["raw"]


def test_the_same_seed_draws_the_same_rows(luthier: Any, done: Path) -> None:
    draws = [luthier("inspect", done, "--random", "4", "--json").document["rows"] for _ in range(2)]
    assert draws[0] == draws[1]


def test_the_worst_have_the_smallest_share_of_trained_tokens(luthier: Any, done: Path) -> None:
    rows = luthier("inspect", done, "--worst", "200", "--json").document["rows"]
    shares = [row["trained"] / row["tokens"] for row in rows]
    assert shares == sorted(shares)
    first = luthier("inspect", done, "--worst", "1", "--json").document["rows"]
    assert first == rows[:1]


def test_what_is_not_there_is_said(luthier: Any, done: Path) -> None:
    for given, sentence in (("9999", "there is no row 9999"), ("x", "'x' is no row")):
        said = luthier("inspect", done, "--row", given)
        assert said.code == 2
        assert sentence in said.err
    both = luthier("inspect", done, "--row", "1", "--worst", "2")
    assert both.code == 2
    assert "exclude each other" in both.err


def test_the_report_holds_rows_with_their_mask(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert '<mark class="trained">' in page
