"""The proof that no twins stand on both sides, against brute force."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.data import prove
from luthier.data.prove import divide_and_prove, twins_across
from luthier.data.shingles import jaccard, shingle_set
from luthier.errors import DataError
from luthier.recipe import Split

LOOSE = {"near_duplicates": None, "duplicates": None}
word = st.sampled_from("a b c d e f".split())
texts = st.lists(st.lists(word, min_size=1, max_size=30).map(" ".join), min_size=2, max_size=14)


class Rows:
    """Rows with sides, as far as the proof looks at a table."""

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        self.sides = rows

    def _chosen(self, where: str) -> list[int]:
        return [i for i, (side, _) in enumerate(self.sides) if "side" not in where or side != "train"]

    def contents(self, where: str) -> Any:
        from luthier.types import Example

        return ((i, Example("f", i, text=self.sides[i][1])) for i in self._chosen(where))

    def sql(self, query: str) -> Any:
        return [(self.sides[i][0],) for i in self._chosen(query.split("WHERE")[1])]


@given(texts, st.randoms(), st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.sampled_from([5, 10**6]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pair_is_found(monkeypatch: Any, texts: list[str], random: Any, threshold: float, block: int) -> None:
    monkeypatch.setattr(prove, "BLOCK", block)
    rows = [(random.choice(["train", "validation", "test"]), text) for text in texts]
    found = twins_across(Rows(rows), threshold)  # type: ignore[arg-type]
    sets = [shingle_set(text) for _, text in rows]
    expected = {
        (i, j)
        for i, j in product(range(len(rows)), repeat=2)
        if i < j and rows[i][0] != rows[j][0] and jaccard(sets[i], sets[j]) >= threshold
    }
    assert {tuple(sorted((pair.one, pair.other))) for pair in found} == expected
    assert len(found) == len(expected)


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
