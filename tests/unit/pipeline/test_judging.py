"""The stages that decide, on whole runs of a tiny model: reserve, second reference, what a verdict is bound to."""

import json
from pathlib import Path
from typing import Any

import pytest
from scenes import conversations, make_base, recipe, write_rows

from luthier.errors import GateFailed
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
