"""Review: which rows are looked at, what verdicts say of the others, and what they change."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from luthier.data.exchange import READERS, WRITERS, read_reviews, write_rows
from luthier.data.ledger import Entry
from luthier.data.review import draw_sample, interval, outlook, reviewable
from luthier.data.verdicts import Verdict, append_verdicts, read_verdicts
from luthier.errors import DataError, ReviewNeeded
from luthier.pipeline.review import require, to_see, verdicts_file, with_content
from luthier.recipe import Review
from luthier.text import load_rows

Asked = Callable[[int], list[dict[str, str]]]
ALONE = {"near_duplicates": None}


def entry(i: int, source: str = "a", tokens: int = 10, risk: float = 0.0) -> Entry:
    content = f"{i * 2654435761 % 2**32:08x}{source}"
    return Entry(source, i, "00", "text", "kept", "", "", None, None, "train", tokens, tokens, risk, "", content)


@given(st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_the_exact_one(counts: tuple[int, int]) -> None:
    defects, seen = counts
    low, high = interval(defects, seen)
    if not seen:
        assert (low, high) == (0, 1)
        return
    exact = binomtest(defects, seen).proportion_ci(0.95, "exact")
    assert low == pytest.approx(exact.low, abs=1e-9)
    assert high == pytest.approx(exact.high, abs=1e-9)


@given(st.integers(0, 5), st.integers(0, 200), st.sampled_from([0.02, 0.05, 0.2]))
def test_how_many_more_is_the_least_that_does(defects: int, seen: int, limit: float) -> None:
    seen = max(seen, defects)
    rows = [entry(i) for i in range(seen + 10_000)]  # so many that never all are seen
    verdicts = {
        e.content: Verdict(e.content, "reject" if i < defects else "accept", "random")
        for i, e in enumerate(rows[:seen])
    }
    found = outlook(rows, verdicts, limit)
    assert found.more is not None
    assert interval(defects, seen + found.more)[1] < limit
    assert found.more == 0 or interval(defects, seen + found.more - 1)[1] >= limit
    assert found.passed == (found.more == 0 and seen > 0)


def test_of_few_rows_all_are_enough() -> None:
    """40 good rows alone would leave up to 8.8 %: an estimate for rows that there are not."""
    rows = [entry(i) for i in range(40)]
    good = {e.content: Verdict(e.content, "accept", "random" if i % 4 else "risk") for i, e in enumerate(rows)}
    some = dict(list(good.items())[:30])
    assert (outlook(rows, some, 0.05).more, outlook(rows, some, 0.05).passed) == (10, False)
    found = outlook(rows, good, 0.05)
    assert (found.low, found.high, found.more, found.passed) == (0, 0, 0, True)
    bad = good | {e.content: Verdict(e.content, "reject", "random") for e in rows[1:4]}
    assert outlook(rows, bad, 0.05).high == 3 / 40
    assert not outlook(rows, bad, 0.05).passed


def test_the_sample_is_stratified_stable_and_has_the_riskiest() -> None:
    rows = [entry(i, "a", tokens=i) for i in range(900)] + [entry(i, "b", risk=i / 100) for i in range(100)]
    sample = draw_sample(rows, 100)
    assert len(sample) == len({e.content for e, _ in sample})
    assert 90 <= len(sample) <= 100
    random = [e for e, drawn in sample if drawn == "random"]
    by_source = Counter(e.source for e in random)
    assert abs(by_source["b"] - 7.5) <= 2
    thirds = Counter(e.line // 300 for e in random if e.source == "a")
    assert max(thirds.values()) - min(thirds.values()) <= 2
    risky = [e.risk for e, drawn in sample if drawn == "risk"]
    assert risky == sorted(risky, reverse=True)
    assert min(risky) >= 0.74
    assert [e for e, d in draw_sample(rows[::-1], 200) if d == "random"][:75] == random  # more begins with less


def test_rejected_rows_go_and_edited_ones_hold_the_edit(bench: Any, asked: Asked, tmp_path: Path) -> None:
    bench.curate(*asked(20), curate=ALONE)
    marks = [line["content"] for line in bench.ledger]
    assert len(set(marks)) == 20
    path = tmp_path / "v" / "verdicts.jsonl"
    append_verdicts(path, [Verdict(marks[0], "accept"), Verdict(marks[1], "reject", note="wrong")])
    append_verdicts(path, [Verdict(marks[2], "edit", edited="It is two.", note="in words")])
    verdicts = read_verdicts(path)
    facts = bench.curate(*asked(20), curate=ALONE, verdicts=verdicts)
    assert facts["fates"] == {"kept": 19, "rejected_in_review": 1}
    lines = bench.ledger
    assert [line["content"] for line in lines] == marks  # a verdict stays bound to what was seen
    assert (lines[1]["fate"], lines[1]["rule"], lines[1]["reason"]) == ("rejected_in_review", "review", "wrong")
    assert lines[2]["note"] == "edited in review: in words"
    side = lines[2]["split"]
    rows = bench.lines(f"{side}.jsonl")
    place = next(i for i, row in enumerate(rows) if row["line"] == 3)
    assert rows[place]["messages"][-1]["content"] == "It is two."
    assert "It is two." in bench.tokenizer.decode(load_rows(bench.out / f"{side}.safetensors").row(place).ids)
    changed = [{**asked(1)[0], "answer": "other"}, *asked(20)[1:]]
    bench.curate(*changed, curate=ALONE, verdicts=verdicts)
    found = outlook(reviewable(bench.out), {v.content: v for v in verdicts.values()}, 0.05)
    assert found.risky_seen == 2  # the changed row has to be seen again


def test_defects_that_were_removed_still_count(bench: Any, asked: Asked) -> None:
    bench.curate(*asked(30), curate=ALONE)
    marks = [line["content"] for line in bench.ledger]
    verdicts = {m: Verdict(m, "reject" if i < 3 else "accept", "random") for i, m in enumerate(marks)}
    bench.curate(*asked(30), curate=ALONE, verdicts=verdicts)
    found = outlook(reviewable(bench.out), verdicts, 0.05)
    assert (found.seen, found.defects, found.passed) == (30, 3, False)


def test_training_waits_until_enough_was_seen(bench: Any, asked: Asked, tmp_path: Path) -> None:
    bench.curate(*asked(120), curate=ALONE)
    store = tmp_path / "runs" / "artifacts"
    limit = Review(limit=0.05)
    with pytest.raises(ReviewNeeded, match=r"no row was seen.*limit is 5.0%") as error:
        require(bench.out, store, limit)
    assert error.value.exit_code == 4
    assert "72 more good rows" in str(error.value.fix)
    rows = to_see(bench.out, {}, 100)
    append_verdicts(verdicts_file(store), (Verdict(e.content, "accept", drawn) for e, drawn in rows))
    assert require(bench.out, store, limit).passed
    assert not to_see(bench.out, read_verdicts(verdicts_file(store)), 100)
    append_verdicts(verdicts_file(store), (Verdict(e.content, "reject", drawn) for e, drawn in rows[:5]))
    with pytest.raises(ReviewNeeded, match="5 of 100 rows"):
        require(bench.out, store, limit)


@pytest.mark.parametrize("tool", [*WRITERS])
def test_rows_go_to_other_tools_and_verdicts_come_back(bench: Any, asked: Asked, tmp_path: Path, tool: str) -> None:
    pair = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    bench.curate(*asked(10), {"text": "plain"}, pair, curate=ALONE)
    rows = with_content(bench.out, draw_sample(reviewable(bench.out), 12))
    marks = [e.content for e, _, _ in rows]
    said = {
        marks[0]: Verdict(marks[0], "accept", "random", where=rows[0][0].where, who="ann"),
        marks[1]: Verdict(marks[1], "edit", "random", "why", "better", rows[1][0].where, "ann"),
        marks[2]: Verdict(marks[2], "reject", "random", "bad", None, rows[2][0].where, "bob"),
    }
    path = tmp_path / "rows.json"
    assert write_rows(path, tool, rows, said) == 12
    assert read_reviews(path) == list(said.values())
    assert "plain" in path.read_text()
    assert READERS[tool]([]) == []


def test_what_the_tools_themselves_write_is_read(tmp_path: Path) -> None:
    result = [
        {"id": "x", "from_name": "decision", "to_name": "row", "type": "choices", "value": {"choices": ["edit"]}},
        {"id": "y", "from_name": "edited", "to_name": "row", "type": "textarea", "value": {"text": ["a", "b"]}},
    ]
    task = {
        "id": 1,
        "data": {"turns": [], "content": "c1"},
        "annotations": [
            {"completed_by": {"id": 1, "email": "ann@x.org"}, "result": result, "was_cancelled": False},
            {"completed_by": 2, "result": [], "was_cancelled": True},
        ],
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task, {"id": 2, "data": {}, "annotations": []}]))
    assert read_reviews(path) == [Verdict("c1", "edit", edited="a\nb", who="ann@x.org")]
    for wrong in ("{", "[1]", '{"a": 1}', '[{"data": {"content": "x"}, "annotations": [{"result": []}]}]'):
        path.write_text(wrong)
        with pytest.raises(DataError, match="no export of Label Studio or Argilla"):
            read_reviews(path)


def test_a_torn_line_is_named_and_nothing_is_glued_to_it(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    append_verdicts(path, [Verdict("a", "accept", "random")])
    path.write_bytes(path.read_bytes() + b'{"content": "b", "deci')
    append_verdicts(path, [Verdict("c", "reject")])
    with pytest.raises(DataError, match="not a verdict") as error:
        read_verdicts(path)
    assert error.value.where == f"{path}:2"
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b"deci\n" not in line))
    append_verdicts(path, [Verdict("a", "reject")])
    found = read_verdicts(path)
    assert (found["a"].decision, found["a"].drawn, found["c"].decision) == ("reject", "random", "reject")
