"""Whole runs on a tiny base: what is made, what is found again, what a failure leaves behind."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scenes
from safetensors.torch import load_file, save_file

import luthier
from luthier import events
from luthier.errors import DataError, GateFailed, ParityFailed, RecipeError
from luthier.pipeline import default_recipe, run_recipe, stale_stages
from luthier.runs import Run
from luthier.types import Json

STAGES = ["dataset", "plan", "baseline", "model", "evaluation", "verdict", "release"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def body(base: Path, tmp_path: Path) -> Json:
    return scenes.recipe(base, scenes.write_rows(tmp_path / "rows.jsonl", scenes.conversations(60)))


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Json]:
    """A finished run, to look at and never to change."""
    home = tmp_path_factory.mktemp("done")
    body = scenes.recipe(base, scenes.write_rows(home / "rows.jsonl", scenes.conversations(60)))
    return luthier.run(body, runs=home / "runs"), body


def reused(run: Run) -> dict[str, bool]:
    """What the last command found and what it made."""
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    start = max(i for i, line in enumerate(lines) if line["event"] == "run_started")
    return {line["stage"]: line["reused"] for line in lines[start:] if line["event"] == "stage_finished"}


def test_rows_become_a_released_model(done: tuple[Run, Json]) -> None:
    run, _ = done
    assert run.status == "done"
    assert list(run.artifacts) == STAGES
    assert run.metrics["validation_loss"].value < run.metrics["before/validation_loss"].value
    assert (run.folder / "report.html").exists()
    lock = json.loads((run.folder / "lock.json").read_text())
    assert {"versions", "inputs", "base", "seed", "hardware"} <= lock.keys()
    assert lock["versions"]["torch"]
    assert all(len(digest) == 64 for digest in lock["inputs"].values())


def test_the_released_model_opens_without_luthier(done: tuple[Run, Json]) -> None:
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "assert 'luthier' not in sys.modules and t.chat_template and m.generation_config.eos_token_id is not None"
    )
    folder = done[0].artifact("release").path("model")
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd="/")
    card = (folder / "README.md").read_text()
    assert f"{done[0].metrics['validation_loss'].value:.3f}" in card


def test_a_second_run_makes_nothing(done: tuple[Run, Json]) -> None:
    run, body = done
    weights = run.artifact("model").path("model.safetensors")
    before = weights.stat()
    again = luthier.run(body, runs=run.folder.parent)
    assert again.folder == run.folder
    assert reused(again) == dict.fromkeys(STAGES, True)
    assert weights.stat() == before
    assert stale_stages(body, root=run.folder.parent) == dict.fromkeys(STAGES, "up to date")


def test_nothing_to_do_loads_no_torch(done: tuple[Run, Json], tmp_path: Path) -> None:
    recipe = scenes.write_recipe(tmp_path / "recipe.yaml", done[1])
    script = (
        "import sys, luthier; luthier.run(sys.argv[1], runs=sys.argv[2])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(recipe), str(done[0].folder.parent)], check=True)


@pytest.mark.parametrize(
    ("override", "remade"),
    [
        ("gate.rules=[perplexity improves]", ["verdict", "release"]),
        ("release.merge=false", ["release"]),
        ("training.max_steps=2", ["plan", "model", "evaluation", "verdict", "release"]),
        ("evaluate.max_items=4", ["baseline", "evaluation", "verdict", "release"]),
    ],
)
def test_only_what_a_setting_touches_is_made_again(done: tuple[Run, Json], override: str, remade: list[str]) -> None:
    run, body = done
    found = luthier.run(body, override, runs=run.folder.parent)
    assert [stage for stage, was in reused(found).items() if not was] == remade


def test_changed_rows_make_all_stale(base: Path, tmp_path: Path) -> None:
    rows = scenes.write_rows(tmp_path / "rows.jsonl", scenes.conversations(40))
    body = scenes.recipe(base, rows)
    luthier.run(body, runs=tmp_path / "runs")
    scenes.write_rows(rows, scenes.conversations(44))
    again = luthier.run(body, runs=tmp_path / "runs")
    assert not any(was for stage, was in reused(again).items() if stage != "plan")


@pytest.mark.parametrize("tuning", [{"kind": "lora", "rank": 4}, {"kind": "qlora", "rank": 4}])
def test_adapters_are_merged_and_the_adapter_opens_in_peft(tuning: Json, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = scenes.make_base(tmp_path / "base", hidden=64)
    body = scenes.recipe(base, scenes.write_rows(tmp_path / "rows.jsonl", scenes.conversations(60)), tuning=tuning)
    run = luthier.run(body, runs=tmp_path / "runs")
    assert run.artifact("release").json("parity.json")["holds"]
    merged = AutoModelForCausalLM.from_pretrained(run.artifact("release").path("model"))
    assert not hasattr(merged.config, "quantization_config")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(run.artifacts["model"]))
    if tuning["kind"] == "lora":
        ids = torch.arange(8, 40)[None]
        with torch.no_grad():
            assert torch.allclose(opened(ids).logits, merged(ids).logits, atol=1e-4)


def test_a_model_that_is_not_the_trained_one_is_not_released(body: Json, tmp_path: Path, monkeypatch: object) -> None:
    import luthier.release.make as making

    honest = making.merge

    def dishonest(*given: object, **named: object) -> object:
        merged = honest(*given, **named)  # type: ignore[arg-type]
        path = Path(given[4]) / "model.safetensors"  # type: ignore[arg-type]
        weights = load_file(path)
        weights["model.layers.1.mlp.down_proj.weight"][3, 5] += 3.0
        save_file(weights, path, metadata={"format": "pt"})
        return merged

    monkeypatch.setattr(making, "merge", dishonest)  # type: ignore[attr-defined]
    with pytest.raises(ParityFailed) as caught:
        luthier.run(body, runs=tmp_path / "runs")
    assert caught.value.exit_code == 4
    assert "of kind weights: 'model.layers.1.mlp.down_proj.weight'" in caught.value.what
    assert not [p for p in (tmp_path / "runs/artifacts").glob("release-*") if p.suffix != ".partial"]


def test_a_failed_gate_releases_nothing_and_says_so_again(body: Json, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(GateFailed, match=r"perplexity at most 0\.5") as caught:
            luthier.run(body, "gate.rules=[perplexity at most 0.5]", runs=tmp_path / "runs")
    run = caught.value.run
    assert "release" not in run.artifacts
    assert run.status == "failed"
    assert "perplexity at most 0.5" in (run.folder / "report.html").read_text()


def test_a_rule_about_nothing_measured_is_refused_before_training(body: Json, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'bleu' is not measured"):
        luthier.run(body, "gate.rules=[bleu improves]", runs=tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("artifacts/model-*"))


def test_a_damaged_artifact_is_named(body: Json, tmp_path: Path) -> None:
    run = luthier.run(body, runs=tmp_path / "runs")
    path = run.artifact("model").path("model.safetensors")
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors: damaged: its bytes changed") as caught:
        luthier.run(body, runs=tmp_path / "runs")
    assert str(run.artifacts["model"].name) in str(caught.value.fix)


def test_plain_text_goes_the_whole_way(base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"The {scenes.THINGS[i % 5]} number {i} is here."} for i in range(60)]
    body = scenes.recipe(base, scenes.write_rows(tmp_path / "rows.jsonl", rows), gate={"rules": None})
    run = luthier.run(body, runs=tmp_path / "runs")
    assert "exact_match" not in run.metrics
    assert [rule["rule"] for rule in run.artifact("verdict").json("verdict.json")["rules"]] == [
        "validation_loss improves"
    ]


def test_unusual_line_ends_in_rows_are_only_letters(base: Path, tmp_path: Path) -> None:
    rows = scenes.conversations(40)
    for row in rows:
        row["messages"][0]["content"] += " Now\u2028or\x85never\x0c."
    run = luthier.run(scenes.recipe(base, scenes.write_rows(tmp_path / "rows.jsonl", rows)), runs=tmp_path / "runs")
    assert run.status == "done"
    asked = run.artifact("evaluation").path("answers.jsonl").read_text(encoding="utf-8").split("\n")
    assert "Now\u2028or\x85never\x0c." in json.loads(asked[0])["prompt"][0]["content"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"prompt": "a"}', "the question has no 'answer'"),
        (b'["a", "b"]', "not a question"),
        (b'{"prompt": 3, "answer": "b"}', "not a question"),
        (b'{"prompt": "\xff", "answer": "b"}', "not a question"),
        (rb'{"prompt": "\ud800", "answer": "b"}', "not a question"),
        (b"{" * 100_000, "not a question"),
    ],
    ids=["no answer", "list", "number", "not UTF-8", "half a character", "deep"],
)
def test_a_suite_that_cannot_be_asked_is_named_with_its_line(
    line: bytes, what: str, base: Path, tmp_path: Path
) -> None:
    rows = scenes.write_rows(tmp_path / "rows.jsonl", scenes.conversations(30))
    (tmp_path / "suite.jsonl").write_bytes(b'{"prompt": "a", "answer": 4}\n\n' + line + b"\n")
    body = scenes.recipe(base, rows, evaluate={"retention": [str(tmp_path / "suite.jsonl")]})
    with pytest.raises(DataError, match=what) as caught:
        luthier.run(body, runs=tmp_path / "runs")
    assert str(caught.value.where).endswith("suite.jsonl:3")


def test_the_embedded_recipe_takes_another_base_with_one_changed_line(base: Path, tmp_path: Path) -> None:
    """Nothing in it is fitted to the bundled base: method and rate come from the plan."""
    changed = [f"model.base={base}", "data.max_rejected=1"]  # this base's context is too short for many of the rows
    run = run_recipe(default_recipe(), changed, root=tmp_path, until="plan")
    assert run.recipe.tuning.kind == "auto"
    assert run.recipe.training.learning_rate is None
    assert run.artifact("plan").json("plan.json")["learning_rate"] > 0


def _started(recipe: Path, runs: Path, checkpoints: int) -> "subprocess.Popen[bytes]":
    """A training in a process of its own, so many checkpoints on its way."""
    command = [sys.executable, "-m", "luthier", "run", str(recipe), "--runs", str(runs), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for _ in range(6000):
        if any(log.read_text().count('"checkpointed"') >= checkpoints for log in runs.glob("*/events.jsonl")):
            return process
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.01)
    raise AssertionError("no checkpoint was written")


LONG = {"epochs": 10, "patience": 1000, "checkpoint_every": 4, "validate_every": 50}


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Json]:
    """A longer training that nobody stopped."""
    home = tmp_path_factory.mktemp("whole")
    rows = scenes.write_rows(home / "rows.jsonl", scenes.conversations(60))
    body = scenes.recipe(base, rows, training=LONG)
    return luthier.run(body, runs=home / "runs"), body


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_run_again_gives_the_same_bits(
    how: signal.Signals, whole: tuple[Run, Json], tmp_path: Path
) -> None:
    undisturbed, body = whole
    recipe = scenes.write_recipe(tmp_path / "recipe.yaml", body)
    process = _started(recipe, tmp_path / "runs", random.randint(1, 4))
    process.send_signal(how)
    said = process.communicate()[0]
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert json.loads(said)["status"] == "interrupted"
    again = luthier.run(recipe, runs=tmp_path / "runs")
    weights = [run.artifact("model").files["model.safetensors"] for run in (undisturbed, again)]
    assert weights[0] == weights[1]
    resumed = [event.step for _, event in events.read(again.events) if isinstance(event, events.Resumed)]
    assert len(resumed) == 2
    assert resumed[1] > 0
