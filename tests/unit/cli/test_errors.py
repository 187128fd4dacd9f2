"""What goes wrong is one sentence with its place and the next step, and an exit code by its kind; never a traceback."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import scenes

from luthier.types import Json

RECIPE, DATA, CHECK, MISSING = 2, 3, 4, 5
CASES: dict[str, tuple[str, int, str, str]] = {
    "no such option": ("run --wrong", RECIPE, "No such option: --wrong", "luthier run --help"),
    "no such verb": ("rum", RECIPE, "No such command 'rum'", "luthier --help"),
    "no recipe": ("run none.yaml", RECIPE, "none.yaml: cannot read the recipe: No such file", "luthier init"),
    "no run": ("show none", RECIPE, "there are no runs here yet", "luthier run"),
    "no run to talk to": ("chat", RECIPE, "there are no runs here yet", "luthier run"),
    "unknown key": ("run training.epoch=3", RECIPE, "unknown key 'training.epoch'; did you mean 'epochs'?", ""),
    "unknown section": ("plan trainin.epochs=3", RECIPE, "unknown key 'trainin'; did you mean 'training'?", ""),
    "no value": ("run training.epochs", RECIPE, "there are no runs here yet", ""),
    "no value after a recipe": (
        "run recipe.yaml training.epochs",
        RECIPE,
        "'training.epochs' is not key=value",
        "training.epochs=5",
    ),
    "a text for a number": ("train training.epochs=many", RECIPE, "training.epochs: input should be a valid", ""),
    "a section for a value": ("run training=3", RECIPE, "training: is a section with keys of its own", ""),
    "below a value": ("run name.a.b=3", RECIPE, "'tiny' has no keys", ""),
    "not in the list": ("run data.sources.7.path=a", RECIPE, "'7' is not a position in a list of 1", "count from 0"),
    "an open bracket": ("run gate.rules=[a", RECIPE, "the value in 'gate.rules=[a' cannot be read", "quote it"),
    "unknown kind": ("run tuning.kind=loro", RECIPE, "tuning: kind 'loro' is not one of 'auto', 'full'", ""),
    "no such base": ("run model.base=none", RECIPE, "model.base: there is no folder 'none'", "ukulele"),
    "no such task": ("run evaluate.tasks=[blue]", RECIPE, "there is no scorer 'blue'; known: exact_match", ""),
    "no such suite": ("run evaluate.retention=[blue]", RECIPE, "there is no suite and no file 'blue'", ""),
    "not a rule": ("run gate.rules=[perplexity]", RECIPE, "'perplexity' is not a rule; write 'METRIC improves'", ""),
    "not measured": ("gate 'gate.rules=[f1 improves]'", RECIPE, "'f1' is not measured; measured are", "evaluate"),
    "no file": ("run data.sources.0.path=none.jsonl", DATA, "none.jsonl: there is no such file (looked in", "beside"),
    "an empty folder": ("curate data.sources.0.path=empty", DATA, "", ""),
    "another kind": ("curate data.sources.0.path=recipe.yaml", DATA, "files of the kind '.yaml' are not read", ""),
    "no safetensors": ("run model.base=.", DATA, "no model in transformers' format", "config.json"),
    "the gate": (
        "gate 'gate.rules=[perplexity at most 0.1]'",
        CHECK,
        "the gate says fail: perplexity at most",
        "report",
    ),
    "runs is a file": ("run --runs rows.jsonl", MISSING, "cannot write: Not a directory", "--runs FOLDER"),
    "nowhere": ("run --runs /proc/none", MISSING, "cannot write: No such file or directory", "--runs FOLDER"),
}


def split(line: str) -> list[str]:
    import shlex

    return shlex.split(line)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_error_is_a_sentence_and_a_document(case: tuple[str, int, str, str], luthier: Any, recipe: Path) -> None:
    line, code, what, fix = case
    (recipe.parent / "empty").mkdir()
    said = luthier(*split(line))
    assert said.code == code
    text = " ".join(said.err.split())
    assert what in text
    assert text.startswith("error: ") or "ok dataset" in text
    assert "Traceback" not in said.err
    assert fix in text.rpartition("next: ")[2]
    assert not list(recipe.parent.rglob("*.luthier-tmp"))
    listened = luthier(*split(line), "--json")
    assert listened.code == code
    document = listened.document
    assert document["status"] == "failed"
    assert {"run", "artifacts", "metrics"} <= document.keys()
    error = document["error"]
    whole = f"{error['where']}: {error['what']}" if error["where"] else error["what"]
    assert what in " ".join(whole.split())
    assert fix in (error["fix"] or "")


@pytest.mark.parametrize("text", ["name: [a", "\x07: 1", "- a", "", "name: a\nname: b"])
def test_a_recipe_that_is_none_is_named_with_its_line(text: str, luthier: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    said = luthier("run")
    assert said.code == RECIPE
    assert "error: recipe.yaml" in said.err
    assert not (tmp_path / "runs").exists()


def test_no_arguments_show_the_help(luthier: Any) -> None:
    said = luthier()
    assert said.code == 0
    assert "luthier [OPTIONS] COMMAND" in said.out


def damage(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path.parent


DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "config": ("config.json", b'{"model_type": ', "config.json"),
    "config of nothing": ("config.json", b"[]", "config.json"),
    "weights": ("model.safetensors", b"\x80\x00 not weights", "the model cannot be loaded"),
    "tokenizer": ("tokenizer.json", b"{}", "tokenizer"),
    "generation config": ("generation_config.json", b"{", "generation_config.json"),
}


@pytest.mark.parametrize("case", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_base_is_named(case: tuple[str, bytes, str], luthier: Any, body: Json, tmp_path: Path) -> None:
    name, content, named = case
    broken = damage(scenes.make_base(tmp_path / "broken") / name, content)
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    said = luthier("run", f"model.base={broken}")
    assert said.code == DATA, said.err
    assert named in said.err
    assert str(broken) in said.err


def test_a_damaged_run_is_named(luthier: Any, recipe: Path) -> None:
    assert luthier("curate").code == 0
    (folder,) = Path("runs").glob("tiny-*")
    (folder / "run.json").write_text('{"version": 1,')
    for verb in ("show", "chat"):
        said = luthier(verb)
        assert said.code == DATA
        assert "run.json: damaged" in said.err


def test_foreign_text_is_no_markup(luthier: Any, body: Json, tmp_path: Path) -> None:
    name = "[bold]rows[red].jsonl"
    scenes.write_rows(tmp_path / name, [*scenes.conversations(30), {"messages": "[/]"}])
    body["data"]["sources"] = [{"path": name}]
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    said = luthier("curate")
    assert said.code == 0
    assert f"{name}:31: 'messages' is a JSON text" in said.out


@pytest.mark.parametrize("verb", ["curate", "run"])
def test_stopped_by_ctrl_c(verb: str, luthier: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here amid curation; a training that is stopped has a test of its own."""
    room = sys.modules["luthier.data.curate"]
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it

    def press(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(room, "curate", press)
    said = luthier(verb, "--json")
    assert said.code == 130
    assert said.document["status"] == "interrupted"
    assert "run the same command to go on" in said.err
    signal.signal(signal.SIGINT, usual)
    monkeypatch.undo()
    monkeypatch.chdir(recipe.parent)
    assert luthier(verb).code == 0


def test_a_reader_that_has_enough_is_no_error(done: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "luthier", "show", str(done), "--json"]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert process.returncode == 0
    assert process.stderr == b""


def test_a_second_process_on_the_same_run_waits_for_nobody(luthier: Any, recipe: Path) -> None:
    from filelock import FileLock

    assert luthier("curate").code == 0
    (folder,) = Path("runs").glob("tiny-*")
    with FileLock(folder / ".lock"):
        errors: list[Any] = []
        other = threading.Thread(target=lambda: errors.append(_locked(folder)))
        other.start()
        other.join()
    assert errors == [RECIPE]


def _locked(folder: Path) -> int:
    command = [sys.executable, "-m", "luthier", "curate", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process is working on this run" in done.stderr
    return done.returncode
