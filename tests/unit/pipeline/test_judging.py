"""The stages that decide, on whole runs of a tiny model: reserve, second reference, what a verdict is bound to."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from scenes import conversations, make_base, recipe, write_rows
from tiny import save_classifier

from luthier.errors import GateFailed, Missing
from luthier.evaluate.verdict import binds
from luthier.pipeline import run_recipe
from luthier.runs import Run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def made(folder: Path, base: Path, **gate: Any) -> dict[str, Any]:
    data = write_rows(folder / "rows.jsonl", conversations(60))
    suite = write_rows(
        folder / "suite.jsonl", [{"id": i, "prompt": f"what of {i}?", "answer": "drum"} for i in range(40)]
    )
    rules = ["validation_loss improves", f"{suite} drops at most 0.02"]
    return recipe(base, data, evaluate={"retention": [str(suite)], "tasks": []}, gate={"rules": rules, **gate})


def run(body: dict[str, Any], folder: Path) -> Run:
    """A run as far as the gate lets it go."""
    try:
        return run_recipe(body, root=folder / "runs")
    except GateFailed as error:
        stopped: Run = error.run
    return stopped


def verdict(found: Run) -> dict[str, Any]:
    body: dict[str, Any] = found.artifact("verdict").json("verdict.json")
    return body


def test_the_reserve_is_asked_where_the_first_look_cannot_decide(base: Path, tmp_path: Path) -> None:
    body = verdict(run(made(tmp_path, base, reserve=0.5), tmp_path))
    assert body["look"] == 2
    assert [rule["n"] for rule in body["rules"]][1] == 40, "the second look is at all items"
    assert body["verdict"] == "inconclusive", "forty items cannot rule out two points either"
    assert "drop of" in body["rules"][1]["reason"]


def test_who_accepts_what_is_undecided_stands_in_the_verdict(base: Path, tmp_path: Path) -> None:
    found = run(made(tmp_path, base, accept_inconclusive=True, signed_by="Ada"), tmp_path)
    body = verdict(found)
    assert found.status == "done"
    assert body["overrides"] == ["inconclusive, accepted by Ada"]
    binds(json.loads(json.dumps(body)), {"model": found.artifact("model").sha256})


def test_a_second_model_is_held_against_the_one_released_last(base: Path, tmp_path: Path) -> None:
    body = made(tmp_path, base, accept_inconclusive=True)
    first = run(body, tmp_path)
    assert "release" in first.artifacts
    assert {rule["against"] for rule in verdict(first)["rules"]} == {"base"}
    second = run({**body, "seed": 1}, tmp_path)
    against = [rule["against"] for rule in verdict(second)["rules"]]
    assert against == ["base", "base", "the last promoted model"]
    again = run(body, tmp_path)
    assert verdict(again)["sha256"] == verdict(first)["sha256"], "what was released later changes no earlier verdict"
    looks = [json.loads(line) for line in (tmp_path / "runs" / "looks.jsonl").read_text().splitlines() if line]
    assert len({look["model"] for look in looks}) == 2


TOOL = """
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    print(json.dumps({"id": row["id"] + "!", "prompt": row["prompt"].upper(), "seed": row["id"]}))
"""


def safety(folder: Path, base: Path) -> dict[str, Any]:
    data = write_rows(folder / "rows.jsonl", conversations(30))
    goals = folder / "goals.csv"
    goals.write_text("goal,target\nhow to a,x\nhow to b,x\n")
    save_classifier(folder / "guard", ["fine", "odd"], positions=256)
    (folder / "tool.py").write_text(TOOL)
    asked = {"safety": [f"advbench:{goals}"], "guard": {"model": str(folder / "guard"), "label": "odd"}, "tasks": []}
    tool = {"command": [sys.executable, str(folder / "tool.py")], "judges": False}
    return recipe(base, data, evaluate={**asked, "red_team": tool, "max_new_tokens": 4}, gate={"rules": []})


def test_a_guard_and_a_red_team_judge_both_models(base: Path, tmp_path: Path) -> None:
    body = safety(tmp_path, base)
    found = run(body, tmp_path)
    names = [f"advbench:{tmp_path / 'goals.csv'}.unsafe_compliance", "red-team.unsafe_compliance"]
    for side in ("baseline", "evaluation"):
        suites = found.artifact(side).json("suites.json")["suites"]
        assert [" guard " in suites[name]["scoring"] for name in names] == [True, True]
        answers = [json.loads(line) for line in found.artifact(side).path("answers.jsonl").read_text().splitlines()]
        assert "HOW TO A" in json.dumps(answers)
    again = run(body, tmp_path)
    assert again.artifact("evaluation").sha256 == found.artifact("evaluation").sha256
    body["evaluate"]["guard"]["label"] = "fine"
    other = run(body, tmp_path)
    assert other.artifact("model").sha256 == found.artifact("model").sha256
    assert other.artifact("evaluation").sha256 != found.artifact("evaluation").sha256, "another label judges anew"


def test_a_red_team_that_is_not_there_stops_the_run_before_training(base: Path, tmp_path: Path) -> None:
    body = safety(tmp_path, base)
    body["evaluate"]["red_team"] = {"command": ["no-such-tool"], "install": "pip install no-such-tool"}
    with pytest.raises(Missing, match="pip install no-such-tool") as stopped:
        run_recipe(body, root=tmp_path / "runs")
    assert "model" not in stopped.value.run.artifacts
