"""The story of a row, what differs between two curations, the funnel and the card."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.data.compare import compare, explain
from luthier.errors import DataError

Asked = Callable[[int], list[dict[str, str]]]
SPARE = {"near_duplicates": None}


def test_the_story_of_a_kept_row_and_of_its_copies(bench: Any, asked: Asked) -> None:
    rows = asked(6)
    bench.curate(*rows, rows[2], rows[2], {"question": "x", "answer": ""}, curate=SPARE)
    (kept,) = explain(bench.out, "rows.jsonl:3")
    assert (kept.entry.fate, kept.stands_for) == ("kept", ["rows.jsonl:7", "rows.jsonl:8"])
    assert kept.content is not None
    assert kept.content["messages"][1]["content"] == "It is 2."
    by_hash = explain(bench.out, kept.entry.hash[:12])
    assert [story.entry.where for story in by_hash] == ["rows.jsonl:3", "rows.jsonl:7", "rows.jsonl:8"]
    (broken,) = explain(bench.out, "rows.jsonl:9")
    assert (broken.entry.rule, broken.content) == ("shape", None)
    assert "answer in turn 2 is empty" in broken.entry.reason
    with pytest.raises(DataError, match=r"no row 'rows\.jsonl:99'"):
        explain(bench.out, "rows.jsonl:99")


def test_what_changed_between_two_curations(bench: Any, asked: Asked, tmp_path: Path) -> None:
    rows = asked(40)
    bench.curate(*rows, rows[0], {"text": "a"}, curate=SPARE)
    old = shutil.copytree(bench.out, tmp_path / "old")
    found = compare(old, bench.out)
    assert (found.same, found.changes, found.added, found.gone) == (42, [], {}, {})
    limit = max(line["tokens"] for line in bench.ledger) - 1
    bench.curate({"question": "new", "answer": "a"}, *rows, curate=SPARE | {"duplicates": None}, max_length=limit)
    found = compare(old, bench.out)
    long = [line for line in bench.ledger if line["fate"] == "too_long"]
    assert long
    assert found.gone == {"duplicate": 1, "train": 1} or found.gone == {"duplicate": 1, "validation": 1}
    assert sum(found.added.values()) == 1
    changed = {(c.before, c.after): c.rows for c in found.changes}
    assert sum(changed.values()) == len(long)
    assert {after for _, after in changed} == {"too_long"}
    assert f"the limit is {limit}" in found.changes[0].examples[0]["after"]
    assert found.same + len(long) == 40


def test_a_refused_curation_is_compared_by_fates_alone(bench: Any, asked: Asked, tmp_path: Path) -> None:
    """It has no sides yet, so rows that are kept in both have not changed."""
    bench.curate(*asked(20), curate=SPARE)
    old = shutil.copytree(bench.out, tmp_path / "old")
    broken = [{"question": "x", "answer": ""}] * 10
    with pytest.raises(DataError, match="max_rejected"):
        bench.curate(*asked(20), *broken, curate=SPARE, max_rejected=0.1)
    found = compare(old, bench.out)
    assert (found.same, found.changes, found.added) == (20, [], {"empty_answer": 10})


def test_the_funnel_adds_up(bench: Any, asked: Asked) -> None:
    rows = asked(20)
    facts = bench.curate(*rows, rows[0], b"{", {"text": "x" * 990}, {"question": "x", "answer": ""}, max_length=200)
    assert [(part["rule"], part["rows"]) for part in facts["funnel"]] == [
        ("read", 1), ("shape", 1), ("length", 1), ("duplicates", 1)
    ]  # fmt: skip
    left = facts["read"]
    for part in facts["funnel"]:
        left -= part["rows"]
        assert part["left"] == left
    assert left == facts["fates"]["kept"]


def test_the_card_tells_what_the_data_is(bench: Any, asked: Asked) -> None:
    facts = bench.curate(*asked(20), b"{", sources=[{"path": "rows.jsonl", "licence": "CC0"}])
    text = (bench.out / "README.md").read_text()
    for part in ("21 rows were read; 20 were kept", "CC0", "not_json", "## Lengths", "It is 1"):
        assert part in text
    assert f"| train | {facts['train']['rows']} | {facts['train']['tokens']} |" in text
