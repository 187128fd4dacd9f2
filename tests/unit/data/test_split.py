"""The split: by what is asked, stable when rows are added, never empty; clusters stay whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.divide import share_of
from luthier.data.split import BITS, bounds, clusters, content_group, normalise, normalise_all, place_of
from luthier.errors import DataError
from luthier.recipe import Split
from luthier.types import Example, Message, Pair

WHOLE = 1 << BITS


def ask(prompt: str, answer: str = "a", system: str | None = None) -> Example:
    head = [Message("system", system)] if system else []
    return Example("f", 1, (*head, Message("user", prompt), Message("assistant", answer)))


def place(content: Example | Pair, seed: int = 0) -> int:
    return place_of(content_group(content), seed)


def test_places_are_spread_evenly_and_the_seed_matters() -> None:
    places = [place(ask(f"question {i}")) for i in range(2000)]
    for share in (0.1, 0.5):
        assert abs(sum(p < share * WHOLE for p in places) / 2000 - share) < 0.03
    assert places != [place(ask(f"question {i}"), 1) for i in range(2000)]
    assert len(set(places)) == 2000


SPACED = st.text(st.sampled_from("ab \t\n\r\x0b\x0c\x1c\x1f\u00e9\u00a0\u2003"), max_size=20)


@given(st.lists(SPACED | st.text(max_size=20), max_size=5))
def test_many_texts_are_normalised_as_one_is(texts: list[str]) -> None:
    assert normalise_all(texts) == [normalise(text) for text in texts]
    assert all(" ".join(text.split()) == normalise(text) for text in texts if text.isascii())


def test_the_first_prompt_decides() -> None:
    for i in range(50):
        same = [ask(f"q {i}"), ask(f" q\n{i} ", "other"), ask(f"q {i}", system="S")]
        assert len({place(e) for e in same}) == 1
    assert place(ask("caf\u00e9")) == place(ask("cafe\u0301"))
    turn = (Message("user", "q"),)
    assert place(Pair("f", 1, turn, (Message("assistant", "x"),), (Message("assistant", "y"),))) == place(ask("q"))


some_places = st.lists(st.integers(0, WHOLE - 1), min_size=2, unique=True)


@given(some_places, st.floats(1e-9, 0.89), st.sampled_from([0.0, 0.05]))
def test_no_side_is_empty(places: list[int], validation: float, test: float) -> None:
    first, second = bounds(sorted(places), validation, test)
    sides = ["validation" if p < first else "test" if p < second else "train" for p in places]
    assert {"validation", "train"} <= set(sides)
    assert "test" in sides or not test or len(places) == 2


numbers = st.integers(0, 12)


@given(st.lists(st.tuples(numbers, numbers), max_size=14), st.randoms())
def test_clusters_are_the_connected_parts_whatever_the_order(links: list[tuple[int, int]], random: Any) -> None:
    moved = clusters(links)
    for one, other in links:
        assert moved[one] == moved[other]
    parts: list[set[int]] = []
    for link in links:  # brute force: parts that touch are one
        touched = [part for part in parts if part & set(link)]
        parts = [part for part in parts if part not in touched] + [set(link).union(*touched)]
    assert len({moved[n] for part in parts for n in part}) == len(parts)
    assert all(moved[n] in part for part in parts for n in part)
    random.shuffle(links)
    assert clusters([(b, a) for a, b in links]) == moved


def test_the_share_depends_on_the_rows() -> None:
    shares = {rows: share_of(Split(), rows) for rows in (10, 400, 800, 1000, 1999, 2000, 10**6)}
    assert shares == {10: 0.2, 400: 0.2, 800: 0.125, 1000: 0.1, 1999: 0.1, 2000: 0.05, 10**6: 0.05}
    assert share_of(Split(validation=0.3), 10) == 0.3


def sides(bench: Any, *names: str) -> dict[str, set[str]]:
    return {name: {line["messages"][0]["content"] for line in bench.lines(f"{name}.jsonl")} for name in names}


def words(i: int) -> str:
    """Texts that have nothing in common."""
    return " ".join(f"w{i}x{k}" for k in range(12))


def test_a_test_split_on_request(bench: Any) -> None:
    rows = [{"question": words(i), "answer": "a"} for i in range(300)]
    facts = bench.curate(*rows, split={"validation": 0.2, "test": 0.2})
    found = sides(bench, "train", "validation", "test")
    assert [len(found[name]) for name in found] == [facts[name]["rows"] for name in found]
    assert all(30 < facts[name]["rows"] < 90 for name in ("validation", "test"))
    assert len(set.union(*found.values())) == 300
    assert "test" not in bench.curate(*rows, split={"validation": 0.2})


def test_rows_with_the_same_value_of_a_field_stay_together(bench: Any) -> None:
    rows = [{"question": words(i), "answer": "a", "by": {"author": i % 40}} for i in range(400)]
    rows += [
        {"question": words(i), "answer": "b", "by": {"author": 100 + i % 7}} for i in range(7)
    ]  # joins two authors
    bench.curate(*rows, split={"validation": 0.3, "by": "by.author"})
    where = {f"{r['question']}{r['answer']}": r["by"]["author"] for r in rows}
    found = {
        name: {
            where[line["messages"][0]["content"] + line["messages"][1]["content"]]
            for line in bench.lines(f"{name}.jsonl")
        }
        for name in ("train", "validation")
    }
    assert not found["train"] & found["validation"]
    assert found["train"] | found["validation"] == {*range(40), *range(100, 107)}
    assert 20 < sum(1 for line in bench.ledger if line["split"] == "validation") < 300


def test_by_time_the_latest_are_held_out(bench: Any) -> None:
    rows = [{"question": words(i), "answer": "a", "at": f"2024-01-{1 + i % 28:02d}"} for i in range(280)]
    rows.append({"question": words(0), "answer": "late", "at": "2025-01-01"})  # its prompt was asked before
    bench.curate(*rows, split={"validation": 0.1, "test": 0.1, "time": "at"})
    days = {row["question"]: row["at"] for row in rows}
    found = sides(bench, "train", "validation", "test")
    assert words(0) in found["test"]
    latest = {name: {days[q] for q in found[name] - {words(0)}} for name in found}
    assert max(latest["train"]) <= min(latest["validation"]) <= max(latest["validation"]) <= min(latest["test"])
    assert [len(found[name]) for name in ("validation", "test")] == [28, 28]


def test_every_source_is_held_out_of(bench: Any) -> None:
    for name, count in (("large.jsonl", 3000), ("small.jsonl", 25)):
        bench.write(*({"question": words(i) + name, "answer": "a"} for i in range(count)), name=name)
    for seed in range(3):
        bench.curate(paths=("large.jsonl", "small.jsonl"), seed=seed)
        held = [line["source"] for line in bench.ledger if line["split"] == "validation"]
        assert held.count("small.jsonl") > 0
        assert 100 <= len(held) < 220


def test_near_duplicates_are_on_one_side(bench: Any) -> None:
    rows = [{"question": words(i // 3), "answer": f"w w w {i % 3}"} for i in range(300)]
    bench.curate(*rows, {"question": words(0) + " more", "answer": "w w w 0"}, split={"validation": 0.4})
    line = {entry["line"]: entry["split"] for entry in bench.ledger}
    assert line[1] == line[301] is not None


def test_one_prompt_cannot_be_divided(bench: Any) -> None:
    with pytest.raises(DataError, match="one distinct prompt cannot be divided") as error:
        bench.curate(*({"question": "a", "answer": f"{i}"} for i in range(9)))
    assert error.value.fix


def test_rows_that_all_belong_together_stop_with_the_setting_to_change(bench: Any) -> None:
    rows = [{"question": words(0) + f" {i}", "answer": "a"} for i in range(9)]
    with pytest.raises(DataError, match="near duplicates of one another") as error:
        bench.curate(*rows)
    assert "near_duplicates" in str(error.value.fix)


def test_a_cluster_larger_than_what_is_held_out_is_trained_on(bench: Any) -> None:
    for seed in range(8):
        rows = [{"question": words(i), "answer": "a", "by": "x" if i < 60 else f"{i}"} for i in range(100)]
        facts = bench.curate(*rows, split={"validation": 0.2, "by": "by"}, seed=seed)
        assert {line["split"] for line in bench.ledger[:60]} == {"train"}
        assert facts["validation"]["rows"] < 25
