"""`luthier review` and `luthier curate` as they are called."""

import json
from pathlib import Path
from typing import Any

import scenes

from luthier.types import Json


def test_rows_are_shown_and_verdicts_are_kept(luthier: Any, recipe: Path, tmp_path: Path) -> None:
    typed = b"a\nr\nnot ours\ne\nAnother answer.\nbetter\n\nx\ns\nq\n"
    said = luthier("review", recipe, typed=typed)
    assert said.code == 0
    assert said.out.count("as tokens") == 5  # skipped ones are seen, too; the last was left open
    assert "drawn at random: 3 seen, 2 with a defect" in said.out
    assert "between 9.4% and 99.2%" in said.out
    lines = [json.loads(line) for line in (tmp_path / "runs" / "verdicts.jsonl").read_text().splitlines()]
    assert [(v["decision"], v["note"], v["edited"]) for v in lines] == [
        ("accept", "", None), ("reject", "not ours", None), ("edit", "better", "Another answer.")
    ]  # fmt: skip
    facts = luthier("curate", recipe, "--json").document
    assert facts["rows"]["rejected_in_review"] == 1
    story = luthier("curate", recipe, "--explain", lines[2]["where"])
    assert "edited in review: better" in story.out
    assert "Another answer." in story.out
    again = luthier("review", recipe, typed=b"")
    assert again.code == 0
    assert again.out.count("as tokens") == 1  # the next one, not those already seen
    assert lines[0]["where"] not in again.out


def test_training_waits_for_the_review_that_the_recipe_asks_for(luthier: Any, body: Json, tmp_path: Path) -> None:
    body["data"]["review"] = {"sample": 60, "limit": 0.2}
    recipe = scenes.write_recipe(tmp_path / "asking.yaml", body)
    stopped = luthier("train", recipe, "--json")
    assert stopped.code == 4
    assert stopped.document["error"]["kind"] == "ReviewNeeded"
    assert "luthier review: 15 more good rows would do" in stopped.err
    assert luthier("review", recipe, typed=b"a\n" * 15).code == 0
    state = luthier("review", recipe, "--json").document["review"]
    assert (state["seen"], state["defects"], state["passed"]) == (15, 0, True)
    assert luthier("train", recipe).code == 0


def test_rows_go_out_and_verdicts_come_in(luthier: Any, recipe: Path, tmp_path: Path) -> None:
    said = luthier("review", recipe, "--export", "label-studio", "rows.json")
    assert said.code == 0
    assert "<Choices" in said.out
    tasks = json.loads((tmp_path / "rows.json").read_text())
    choice = {"from_name": "decision", "value": {"choices": ["accept"]}}
    for task in tasks[:10]:
        task["annotations"] = [{"result": [choice]}]
    (tmp_path / "done.json").write_text(json.dumps(tasks))
    back = luthier("review", recipe, "--import", "done.json")
    assert "10 verdicts taken in" in back.err
    assert "drawn at random: 10 seen" in back.out
    wrong = luthier("review", recipe, "--export", "excel", "x")
    assert (wrong.code, "formats: label-studio, argilla" in wrong.err) == (2, True)


def test_two_curations_are_compared(luthier: Any, recipe: Path, tmp_path: Path) -> None:
    old = luthier("curate", recipe, "--json").document["artifacts"]["dataset"]
    lines = [json.loads(line) for line in (tmp_path / old / "ledger.jsonl").read_text().splitlines()]
    limit = max(line["tokens"] for line in lines) - 1
    new = luthier("curate", recipe, f"data.max_length={limit}", "--json").document["run"]
    said = luthier("curate", "--diff", old, new)
    assert said.code == 0
    assert "-> too_long" in said.out
    found = luthier("curate", "--diff", old, new, "--json").document["difference"]
    changed = sum(change["rows"] for change in found["changes"])
    assert changed > 0
    assert found["same"] + changed == len(lines)
    assert luthier("curate", "--diff", old, "nowhere").code == 2
