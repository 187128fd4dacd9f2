"""A real regression: full tuning of the bundled base at a high rate forgets what it knew, and the gate stops it."""

import itertools
import json
from pathlib import Path

import pytest

import luthier
from luthier.errors import GateFailed
from luthier.models.base import ukulele_file
from luthier.pipeline import default_recipe

pytestmark = pytest.mark.slow


def test_a_forgetful_model_fails_on_retention_and_its_lost_skills_are_named(tmp_path: Path) -> None:
    questions = ukulele_file("skills.jsonl").read_text(encoding="utf-8").splitlines()
    some = tmp_path / "some-skills.jsonl"
    some.write_text("\n".join(itertools.islice(questions, 0, None, 3)) + "\n", encoding="utf-8")
    overrides = [
        "tuning.kind=full",
        "training.learning_rate=0.005",
        "training.epochs=1",
        "data.replay=null",
        "training.trace=3",
    ]
    with pytest.raises(GateFailed) as caught:
        luthier.run(
            default_recipe(), *overrides, f"evaluate.retention=[{some}]", "gate.rules=null", runs=tmp_path / "runs"
        )
    assert caught.value.exit_code == 4
    run = caught.value.run
    verdict = run.artifact("verdict").json("verdict.json")
    failing = [rule["rule"] for rule in verdict["rules"] if rule["verdict"] == "fail"]
    assert f"{some} drops at most 0.04" in failing
    (lost,) = [found for found in verdict["failures"] if found["mode"] == "capability regression"]
    assert lost["alarm"]
    assert (
        sum(skill in lost["evidence"] for skill in ("copy", "reverse", "sort_numbers", "refuse", "to_json", "add")) >= 2
    )
    assert verdict["attribution"][0]["broken"] > 100
    broke = verdict["attribution"][0]["broke"]
    assert broke["after"] < broke["by"], "some model on the way was the first to have lost the skills"
    assert 1 <= len(broke["scores"]) <= 2, "three models are searched by halves"
    assert f"broke between update {broke['after']} and {broke['by']}" in verdict["attribution"][0]["sentence"]
    assert verdict["noise"][str(some)]["n"] == 200
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "capability regression" in page
    assert "broke between update" in page
    looks = (tmp_path / "runs" / "looks.jsonl").read_text(encoding="utf-8").split()
    assert json.loads("".join(looks))["verdict"] == "fail"
    assert "release" not in run.artifacts
