"""The `--json` document of every verb: scripts rely on these names."""

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.types import Json

STAGES = ["dataset", "plan", "baseline", "model", "evaluation", "verdict", "release"]
COMMON = {"status", "run", "artifacts", "metrics"}
VERBS: dict[str, tuple[str, set[str]]] = {
    "curate": ("dataset", {"rows"}),
    "plan": ("plan", {"method", "trainable_parameters", "total_parameters", "reasons"}),
    "train": ("model", set()),
    "evaluate": ("evaluation", set()),
    "gate": ("verdict", {"verdict", "rules"}),
    "release": ("release", set()),
    "run": ("release", set()),
}


def check(document: Json, more: set[str]) -> None:
    assert document.keys() >= COMMON | more
    assert document["status"] == "done"
    for folder in document["artifacts"].values():
        assert (Path(folder) / "artifact.json").is_file()
    for metric in document["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["n"] > 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_what_it_promises(verb: str, luthier: Any, done: Path) -> None:
    stage, more = VERBS[verb]
    said = luthier(verb, done, "--json")
    assert said.code == 0
    assert said.err == ""
    check(said.document, more)
    assert said.document["run"] == str(done)
    assert stage in said.document["artifacts"]


def test_a_first_run_and_a_second(luthier: Any, recipe: Path) -> None:
    first = luthier("run", "--json")
    check(first.document, set())
    assert list(first.document["artifacts"]) == STAGES
    assert {"validation_loss", "before/validation_loss", "exact_match"} <= first.document["metrics"].keys()
    logged = (Path(first.document["run"]) / "events.jsonl").read_text().count("stage_started")
    again = luthier("run")
    assert "nothing to do: all 7 stages are up to date" in again.err
    assert "luthier chat tiny-" in again.out.splitlines()[-1]
    assert (Path(first.document["run"]) / "events.jsonl").read_text().count("stage_started") == logged
    assert luthier("run", "--json").document == first.document


def test_rows_add_up(luthier: Any, recipe: Path) -> None:
    rows = Path("rows.jsonl").read_text().splitlines()
    Path("rows.jsonl").write_text("\n".join([*rows, rows[0], "{", "[]"]))
    counted = luthier("curate", "--json").document["rows"]
    assert counted == {"read": 63, "kept": 60, "duplicate": 1, "not_json": 1, "not_object": 1}
    assert counted.pop("read") == sum(counted.values())


def test_a_plan_adds_up(luthier: Any, done: Path) -> None:
    plan = luthier("plan", done, "--json").document
    assert plan["method"] == "full"
    assert plan["trainable_parameters"] == plan["total_parameters"] > 0
    memory = dict(plan["memory"])
    assert memory.pop("total") == sum(memory.values())
    assert plan["reasons"]


def test_a_failed_gate_still_says_which_rules(luthier: Any, recipe: Path) -> None:
    for verb in ("gate", "run"):
        said = luthier(verb, "gate.rules=[perplexity at most 0.1]", "--json")
        assert said.code == 4
        body = said.document
        assert body["status"] == "failed"
        assert body["verdict"] == "fail"
        assert body["rules"][0]["rule"] == "perplexity at most 0.1"
        assert body["error"]["kind"] == "GateFailed"
        assert "release" not in body["artifacts"]
    told = luthier("run", "gate.rules=[perplexity at most 0.1]")
    assert "perplexity at most 0.1" in told.out  # the summary is shown though the gate failed


def test_a_dry_run_leaves_nothing(luthier: Any, recipe: Path) -> None:
    stages = luthier("run", "--dry-run", "--json").document["stages"]
    assert stages == {"dataset": "would run"} | dict.fromkeys(STAGES[1:], "depends on the stages before")
    plan = luthier("plan", "--dry-run", "--json").document
    assert COMMON | VERBS["plan"][1] <= plan.keys()
    assert plan["run"] is None
    assert not Path("runs").exists()


def test_show_runs_and_doctor(luthier: Any, done: Path) -> None:
    shown = luthier("show", done, "--json").document
    check(shown, set())
    listed = luthier("runs", "--runs", done.parent, "--json").document
    assert shown in listed["runs"]
    assert listed.keys() >= COMMON
    assert done.name in luthier("runs", "--runs", done.parent).out
    assert luthier("runs").out == "no runs in runs; start with: luthier run\n"
    machine = luthier("doctor", "--json").document
    assert machine.keys() >= COMMON | {"packages", "hardware", "gpus", "bundled_base"}
    assert machine["hardware"]["cores"] > 0
    told = luthier("doctor").out
    assert all(f"{name} " in told for name, version in machine["packages"].items() if version)


def test_doctor_says_what_to_install(luthier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.cli import doctor

    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "bitsandbytes" else known(name))
    assert "for tuning qlora (4-bit base) -> pip install 'luthier[qlora]'" in luthier("doctor").out
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "peft" else known(name))
    said = luthier("doctor", "--json")
    assert said.code == 5
    assert said.document["status"] == "failed"


def test_init_writes_what_runs_and_overwrites_nothing(luthier: Any, tmp_path: Path) -> None:
    document = luthier("init", "job", "--json").document
    assert document.keys() >= COMMON
    assert sorted(p.name for p in (tmp_path / "job").iterdir()) == ["recipe.yaml", "tickets.jsonl"]
    assert luthier("curate", "job").code == 0
    again = luthier("init", "job")
    assert again.code == 2
    assert "is there already" in again.err
    onto = luthier("init", "job/recipe.yaml")
    assert onto.code == 5
    assert "free" not in onto.err


def test_an_override_works_where_a_recipe_could_stand(luthier: Any, recipe: Path) -> None:
    run = Path(luthier("plan", "training.epochs=1", "--json").document["run"])
    assert "epochs: 1.0" in (run / "recipe.yaml").read_text()
    assert (run / "recipe.given.yaml").read_text().startswith("# overrides:\n# training.epochs=1\n")
    changed = luthier("plan", run, "seed=7", "--json").document  # a run is a recipe, too
    assert json.loads((Path(changed["run"]) / "lock.json").read_text())["seed"] == 7


def test_what_a_users_function_prints_is_not_in_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from luthier import pipeline
    from luthier.cli import console

    monkeypatch.setattr(pipeline, "run_recipe", lambda *_, **__: print("a reward says hello"))
    console.work(str(tmp_path / "recipe.yaml"), [], tmp_path / "runs", "model", as_json=True)
    console.put({"status": "done"})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"status": "done"}
    assert "a reward says hello" in said.err
