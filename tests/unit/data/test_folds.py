"""Folds: every row in exactly one, groups whole, no twins apart, sources spread, the same whichever is held out."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from luthier.data.shingles import jaccard, shingle_set
from luthier.errors import DataError, RecipeError
from luthier.recipe import build_recipe


def words(i: int, count: int = 12) -> list[str]:
    return [f"w{i}x{k}" for k in range(count)]


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Every fourth row has a twin with another prompt, every fifth asks the same again; authors write several rows."""
    made: list[dict[str, Any]] = []
    for i in range(start, start + count):
        asked, answer = " ".join(words(i)), " ".join(words(-i - 1))
        made.append({"question": asked, "answer": answer, "author": i // 3 if i % 7 == 0 else f"alone {i}"})
        if i % 4 == 0:
            made.append({"question": f"{asked} please", "answer": answer, "author": f"twin {i}"})
        if i % 5 == 0:
            made.append({"question": asked, "answer": " ".join(words(i + 100_000)), "author": f"again {i}"})
    return made


def folds_of(bench: Any) -> dict[tuple[str, int], int | None]:
    return {(line["source"], line["line"]): line["fold"] for line in bench.ledger}


@pytest.mark.parametrize("near", [None, {}])
def test_groups_are_whole_and_no_twins_are_in_different_folds(bench: Any, near: Any) -> None:
    given = rows(90)
    facts = bench.curate(*given, split={"folds": 5, "by": "author"}, curate={"near_duplicates": near})
    fold = [line["fold"] for line in bench.ledger]
    assert set(fold) == {1, 2, 3, 4, 5}
    assert facts["proof"]["across"] == 0
    texts = [shingle_set(f"{row['question']}\n\n{row['answer']}") for row in given]
    for i, j in combinations(range(len(given)), 2):  # brute force
        same = given[i]["question"] == given[j]["question"] or given[i]["author"] == given[j]["author"]
        if same or jaccard(texts[i], texts[j]) >= 0.8:
            assert fold[i] == fold[j], (given[i], given[j])
    sizes = Counter(fold)
    assert [part["rows"] for part in facts["folds"]] == [sizes[k] for k in range(1, 6)]
    assert max(sizes.values()) - min(sizes.values()) <= 6


def test_each_fold_is_held_out_once_and_the_folds_stay_the_same(bench: Any) -> None:
    given = rows(60)
    held: list[list[int]] = []
    seen = []
    for k in (1, 2, 3, 4):
        facts = bench.curate(*given, split={"folds": 4, "fold": k})
        seen.append(folds_of(bench))
        assert all(line["split"] == ("validation" if line["fold"] == k else "train") for line in bench.ledger)
        held.append([line["line"] for line in bench.ledger if line["split"] == "validation"])
        assert len(bench.lines("validation.jsonl")) == facts["validation"]["rows"] == facts["folds"][k - 1]["rows"]
    assert seen.count(seen[0]) == 4
    assert sorted(line for lines in held for line in lines) == list(range(1, len(given) + 1))


def test_rows_that_are_added_move_few_others(bench: Any) -> None:
    bench.curate(*rows(100), split={"folds": 5})
    before = folds_of(bench)
    bench.curate(*rows(105), split={"folds": 5})
    after = folds_of(bench)
    assert sum(after[place] != fold for place, fold in before.items()) <= 0.1 * len(before)


def test_every_source_is_spread_over_the_folds(bench: Any) -> None:
    counts = {"large.jsonl": 200, "small.jsonl": 11, "tiny.jsonl": 2, "other.jsonl": 2}
    for number, (name, count) in enumerate(counts.items()):
        bench.write(*({"question": " ".join(words(1000 * number + i)), "answer": "a"} for i in range(count)), name=name)
    bench.curate(paths=tuple(counts), split={"folds": 5})
    found: dict[str, Counter[int]] = {name: Counter() for name in counts}
    for line in bench.ledger:
        found[line["source"]][line["fold"]] += 1
    assert set(found["large.jsonl"].values()) == {40}
    assert set(found["small.jsonl"].values()) == {2, 3}
    assert len(found["tiny.jsonl"]) == len(found["other.jsonl"]) == 2
    assert found["tiny.jsonl"] != found["other.jsonl"]  # small sources do not fall into the same folds


def test_one_large_group_leaves_no_fold_empty(bench: Any) -> None:
    given = [{"question": " ".join(words(i)), "answer": "a", "by": "x" if i < 40 else f"{i}"} for i in range(46)]
    facts = bench.curate(*given, split={"folds": 5, "by": "by"})
    assert all(part["rows"] for part in facts["folds"])
    assert len({line["fold"] for line in bench.ledger[:40]}) == 1


def test_fewer_groups_than_folds_stop_with_the_number_that_would_do(bench: Any) -> None:
    given = [{"question": " ".join(words(i % 3)), "answer": f"a{i}"} for i in range(30)]
    with pytest.raises(DataError, match=r"3 groups of rows .* into 5 folds") as error:
        bench.curate(*given, split={"folds": 5})
    assert "data.split.folds to 3" in str(error.value.fix)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"fold": 2}, "no effect without data.split.folds"),
        ({"folds": 3, "fold": 4}, "there are only 3 folds"),
        ({"folds": 3, "validation": 0.1}, "data.split.validation has no effect"),
        ({"folds": 3, "test": 0.1}, "data.split.test has no effect"),
        ({"folds": 3, "time": "at"}, "data.split.time has no effect"),
    ],
)
def test_a_setting_without_effect_is_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_recipe({"name": "t", "data": {"sources": [{"path": "a.jsonl"}], "split": split}})
