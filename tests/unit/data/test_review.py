"""Review: which rows are looked at, what verdicts say of the others, and what they change."""

from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, hypergeom

from luthier.data.ledger import Entry
from luthier.data.review import draw_order, draw_sample, frame_of, interval, most_defects, outlook, reviewable
from luthier.data.verdicts import Decision, Verdict, append_verdicts, read_verdicts
from luthier.errors import DataError, ReviewNeeded
from luthier.pipeline.review import require, to_see, verdicts_file
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


def judged(rows: Sequence[Entry], bad: Container[int], frame: str = "f") -> dict[str, Verdict]:
    """Verdicts on these rows as they come, those with these numbers bad."""
    said: list[Decision] = ["reject" if i in bad else "accept" for i in range(len(rows))]
    return {e.content: Verdict(e.content, what, "random", frame=frame) for e, what in zip(rows, said, strict=True)}


def in_order(rows: Sequence[Entry]) -> list[Entry]:
    return draw_order(rows, {}).rows


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.data())
def test_the_bound_on_what_is_left_is_the_exact_one(counts: tuple[int, int], data: st.DataObject) -> None:
    """The largest number of defects that a test of the draw does not refuse, by the distribution itself."""
    rows, seen = counts
    defects = data.draw(st.integers(0, seen))
    most = most_defects(rows, seen, defects)
    possible = range(defects, rows - (seen - defects) + 1)
    assert most == max(m for m in possible if m == defects or hypergeom.cdf(defects, rows, m, seen) >= 0.025)
    assert seen < rows or most == defects  # of what was all seen nothing is estimated


@pytest.mark.parametrize("bad", [3, 30, 120])
def test_the_bound_holds_in_so_many_draws(bad: int) -> None:
    """Of 2,000 draws of 60 of 600 rows it is too small in 2.5 % at most, whatever the true number is."""
    draw = Random(7)
    missed = 0
    for _ in range(2000):
        found = sum(row < bad for row in draw.sample(range(600), 60))
        missed += bad > most_defects(600, 60, found)
    assert missed <= 0.035 * 2000


@given(st.integers(0, 5), st.integers(1, 120), st.sampled_from([0.02, 0.05, 0.2]))
def test_how_many_more_is_the_least_that_does(defects: int, seen: int, limit: float) -> None:
    seen = max(seen, defects)
    rows = in_order([entry(i) for i in range(600)])
    found = outlook(rows, judged(rows[:seen], range(defects)), limit)
    further = [outlook(rows, judged(rows[: seen + k], range(defects)), limit) for k in (found.more, found.more - 1)]
    assert further[0].passed
    assert found.passed == (found.more == 0)
    assert found.more == 0 or not further[1].passed


def test_of_few_rows_all_are_enough() -> None:
    rows = in_order([entry(i) for i in range(40)])
    assert (outlook(rows, judged(rows[:30], ()), 0.05).passed, outlook(rows, {}, 0.05).passed) == (False, False)
    found = outlook(rows, judged(rows, ()), 0.01)
    assert (found.left, found.more, found.passed) == (0, 0, True)


def test_defects_that_were_found_are_mended_and_those_nobody_saw_still_count() -> None:
    rows = in_order([entry(i) for i in range(30)])
    found = outlook(rows, judged(rows, range(3)), 0.05)  # all were seen, and the three go
    assert (found.seen, found.defects, found.left, found.passed) == (30, 3, 0, True)
    many = in_order([entry(i) for i in range(3000)])
    found = outlook(many, judged(many[:30], range(3)), 0.05)
    assert found.left == (most_defects(3000, 30, 3) - 3) / 2997
    assert not found.passed
    assert outlook(many, judged(many[: 30 + found.more], range(3)), 0.05).passed


def test_taking_out_the_bad_rows_that_were_seen_is_no_evidence() -> None:
    """A rule that drops just the three bad rows must not make a sample of 97 good ones out of 100."""
    rows = in_order([entry(i) for i in range(3000)])
    verdicts = judged(rows[:100], range(3))
    before, after = outlook(rows, verdicts, 0.05), outlook(rows[3:], verdicts, 0.05)
    assert not after.passed
    assert after.left >= 0.95 * before.left
    assert (after.earlier, after.defects) == (100, 3)
    order = draw_order(rows[3:], verdicts).rows
    assert not {e.content for e in order} & set(verdicts)  # seen rows are known: nobody looks at them again
    clean = outlook(rows[3:], verdicts | judged(order[: after.more], (), "g"), 0.05)
    assert clean.passed
    assert after.more <= outlook(rows, {}, 0.05).more  # never more than to begin anew
    assert not outlook(rows[3:], verdicts | judged(order[: after.more - 1], (), "g"), 0.05).passed


def test_rows_that_are_added_have_to_be_seen_only_where_the_draw_meets_them() -> None:
    rows = [entry(i) for i in range(1000)]
    verdicts = judged(in_order(rows)[:100], ())
    assert outlook(rows, verdicts, 0.05).passed
    more = rows + [entry(i) for i in range(1000, 1010)]
    unseen = [e for e in in_order(more)[:100] if e.content not in verdicts]
    assert len(unseen) <= 12
    found = outlook(more, verdicts, 0.05)
    assert found.earlier == 0
    assert found.seen + found.waiting == 100
    assert outlook(more, verdicts | judged(unseen, ()), 0.05).passed


def test_a_row_that_is_passed_over_holds_up_those_behind_it() -> None:
    """Whoever skips the hard rows must not get a better estimate."""
    rows = in_order([entry(i) for i in range(1000)])
    verdicts = judged(rows[:100], ())
    del verdicts[rows[10].content]
    found = outlook(rows, verdicts, 0.05)
    assert (found.seen, found.waiting, found.more, found.passed) == (10, 89, 1, False)


def test_risky_rows_are_known_and_enter_no_estimate() -> None:
    rows = in_order([entry(i) for i in range(1000)])
    verdicts = judged(rows[:100], ()) | {r.content: Verdict(r.content, "reject", "risk") for r in rows[500:520]}
    found = outlook(rows, verdicts, 0.05)
    assert (found.seen, found.defects, found.risky_seen, found.risky_defects) == (100, 0, 20, 20)
    assert found.left == most_defects(980, 100, 0) / 980  # the 20 are known, and are not drawn from


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


def test_rejected_rows_stay_in_what_is_drawn_from(bench: Any, asked: Asked) -> None:
    """A verdict changes the dataset, not the draw; a rule that takes rows out does."""
    bench.curate(*asked(30), curate=ALONE)
    entries = reviewable(bench.out)
    verdicts = judged(entries, range(3), frame_of(entries))
    first = entries[3].content
    verdicts[first] = Verdict(first, "edit", "random", edited="word " * 400, frame=frame_of(entries))  # now too long
    bench.curate(*asked(30), curate=ALONE, verdicts=verdicts)
    after = reviewable(bench.out)
    assert [line["fate"] for line in bench.ledger[:4]] == ["rejected_in_review"] * 3 + ["too_long"]
    assert frame_of(after) == frame_of(entries)
    found = outlook(after, verdicts, 0.05)
    assert (found.seen, found.defects, found.left, found.earlier, found.passed) == (30, 4, 0, 0, True)


def test_training_waits_until_enough_was_seen(bench: Any, asked: Asked, tmp_path: Path) -> None:
    bench.curate(*asked(120), curate=ALONE)
    store = tmp_path / "runs" / "artifacts"
    limit = Review(limit=0.05)
    with pytest.raises(ReviewNeeded, match=r"no row was seen.*limit is 5.0%") as error:
        require(bench.out, store, limit)
    assert error.value.exit_code == 4
    assert "54 more good rows" in str(error.value.fix)  # of 120 all good, less than of a million
    rows = to_see(bench.out, {}, 100).rows
    append_verdicts(verdicts_file(store), (Verdict(e.content, "accept", drawn) for e, drawn in rows))
    assert require(bench.out, store, limit).passed
    assert not to_see(bench.out, read_verdicts(verdicts_file(store)), 100).rows
    append_verdicts(verdicts_file(store), (Verdict(e.content, "reject", drawn) for e, drawn in rows[:20]))
    with pytest.raises(ReviewNeeded, match="20 of 100 rows"):
        require(bench.out, store, limit)


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
