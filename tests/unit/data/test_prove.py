"""The proof that no twins stand on both sides, against brute force."""

import json
import random
import sqlite3
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.data import clusters, prove
from luthier.data.prove import divide_and_prove, twins_across
from luthier.data.shingles import jaccard, shingle_set
from luthier.data.sieve import Sieve
from luthier.errors import DataError
from luthier.recipe import Split

LOOSE = {"near_duplicates": None, "duplicates": None}
word = st.sampled_from("a b c d e f".split())
texts = st.lists(st.lists(word, min_size=1, max_size=30).map(" ".join), min_size=2, max_size=14)


class Rows:
    """Rows with sides, as far as the proof looks at a table."""

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        self.rows, self.count = rows, len(rows)
        self.base = sqlite3.connect(":memory:")
        self.base.execute("CREATE TABLE rows (n, side, content, fate)")
        made = [(i, side, len(text), "kept") for i, (side, text) in enumerate(rows)]
        self.base.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", made)

    def sql(self, query: str) -> Any:
        return self.base.execute(query)

    def texts(self, where: str, numbers: Any = None, more: str = "NULL") -> Any:
        for number, side in self.sql(f"SELECT n, {more} FROM rows WHERE {where} ORDER BY n"):
            if numbers is None or number in numbers:
                yield number, side, self.rows[number][1]


@given(texts, st.randoms(), st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.sampled_from([5, 10**6]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pair_is_found(
    monkeypatch: Any, texts: list[str], draw: random.Random, threshold: float, block: int
) -> None:
    monkeypatch.setattr(prove, "BLOCK", block)
    sides = draw.choice([["train", "validation"], ["train", "validation", "test"]])
    rows = [(draw.choice(sides), text) for text in texts]
    found = twins_across(Rows(rows), threshold)  # type: ignore[arg-type]
    sets = [shingle_set(text) for _, text in rows]
    expected = {
        (i, j)
        for i, j in product(range(len(rows)), repeat=2)
        if i < j and rows[i][0] != rows[j][0] and jaccard(sets[i], sets[j]) >= threshold
    }
    assert {tuple(sorted((pair.one, pair.other))) for pair in found} == expected
    assert len(found) == len(expected)


@given(texts, texts, st.sampled_from([0.3, 0.8, 1.0]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_sieve_lets_through_what_is_alike(
    monkeypatch: Any, known: list[str], asked: list[str], threshold: float
) -> None:
    sets = [shingle_set(text) for text in known]
    sieve = Sieve(sum(map(len, known)), sets)
    passed = sieve.pass_through(asked, threshold).tolist()
    for text, could in zip(asked, passed, strict=True):
        mine = shingle_set(text)
        assert could or all(jaccard(mine, one) < threshold for one in sets)
    with monkeypatch.context() as changed:
        changed.setattr(clusters, "compiled", lambda: None)
        changed.setattr("luthier.data.sieve.compiled", lambda: None)
        plain = Sieve(sum(map(len, known)), sets)
        assert np.array_equal(plain.places, sieve.places)
        assert plain.pass_through(asked, threshold).tolist() == passed


def test_a_sieve_holds_back_what_has_little_in_common() -> None:
    r = random.Random(0)
    texts = [" ".join(str(r.randrange(5000)) for _ in range(100)) for _ in range(400)]
    sieve = Sieve(sum(map(len, texts[:200])), [shingle_set(text) for text in texts[:200]])
    assert sieve.pass_through(texts[:200], 0.8).all()
    assert not sieve.pass_through(texts[200:], 0.3).any()


def sentence(i: int) -> list[str]:
    return [f"w{i}x{k}" for k in range(30)]


def planted(count: int) -> list[dict[str, str]]:
    """Rows of which every third has a twin with another prompt, and some chains of twins."""
    rows = []
    for i in range(count):
        words = sentence(i)
        rows.append({"question": " ".join(words[:15]), "answer": " ".join(words[15:])})
        if i % 3 == 0:
            rows.append({"question": " ".join(["So", *words[1:15]]), "answer": " ".join(words[15:])})
        if i % 9 == 0:
            rows.append({"question": " ".join(["So", *words[1:15]]), "answer": " ".join([*words[15:29], "end"])})
    return rows


@pytest.mark.parametrize("curate", [LOOSE, {}])
def test_no_twins_are_parted(bench: Any, curate: dict[str, Any]) -> None:
    facts = bench.curate(*planted(150), curate=curate, split={"validation": 0.2, "test": 0.1, "twins": 0.6})
    assert facts["proof"]["across"] == 0
    if curate:
        assert facts["proof"]["tied"] > 0
    sides = {
        name: [
            shingle_set("\n\n".join(t["content"] for t in line["messages"])) for line in bench.lines(f"{name}.jsonl")
        ]
        for name in ("train", "validation", "test")
    }
    assert len(sides) == 3
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert max(jaccard(a, b) for a in sides[one] for b in sides[other]) < 0.6


def test_a_division_that_parts_twins_stops(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "divide", lambda table, _: table.sql(
        "UPDATE rows SET side = CASE n % 2 WHEN 1 THEN 'train' ELSE 'validation' END"))  # fmt: skip
    rows = [{"question": " ".join(sentence(0)), "answer": f"{i}"} for i in range(4)]
    with pytest.raises(
        DataError, match=r"4 pairs of twins stand on both sides.*rows.jsonl:2 and rows.jsonl:1"
    ) as error:
        bench.curate(*rows, curate=LOOSE)
    assert "data.split.twins" in str(error.value.fix)


def test_the_threshold_is_the_recipes(bench: Any) -> None:
    facts = bench.curate(*planted(40), curate=LOOSE, split={"twins": 0.95})
    assert (facts["proof"]["threshold"], facts["proof"]["tied"]) == (0.95, 0)
    assert Split().twins == 0.8


def test_what_is_proved_stands_on_the_card(bench: Any, tmp_path: Path) -> None:
    facts = bench.curate(*planted(40))
    assert "every pair that could was compared" in (bench.out / "README.md").read_text()
    assert json.loads((bench.out / "facts.json").read_text())["proof"] == facts["proof"]
    assert divide_and_prove.__doc__
