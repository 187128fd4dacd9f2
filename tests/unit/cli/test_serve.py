"""`luthier serve` as it is started: what it refuses, what it serves, how it stops."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import scenes

from luthier import open_run
from luthier.evaluate.answers import read_answers

LINE = "The drum 3 is broken."


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[tuple[Any, Any]]:
    """The server as a process of its own, and what it says when it is ready."""
    command = [sys.executable, "-m", "luthier", "serve", *map(str, arguments), "--port", "0", "--json"]
    said = subprocess.PIPE
    process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | environment, text=True)
    try:
        lines = []
        while not lines or not lines[-1].startswith("}"):
            lines.append(process.stdout.readline())
            if not lines[-1]:
                pytest.fail(process.stderr.read())
        yield process, json.loads("".join(lines))
    finally:
        process.kill()
        process.communicate()


def client(document: Any, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=document["url"] + "/v1", api_key=key, max_retries=0)


def answer(of: openai.OpenAI, model: str, messages: Any, **more: Any) -> str:
    found = of.chat.completions.create(model=model, messages=messages, **more)
    return found.choices[0].message.content or ""


@pytest.mark.slow
def test_the_served_text_is_what_chat_says_and_what_was_evaluated(luthier: Any, done: Path) -> None:
    run = open_run(done)
    with serving(done, "--base") as (process, ready):
        assert ready["models"] == ["tiny", "base"]
        assert ready["backend"] == "transformers"
        user = [{"role": "user", "content": LINE}]
        for name, more in (("tiny", ()), ("base", ("--base",))):
            chat = luthier("chat", done, "-m", LINE, "--json", *more).document["answer"]
            assert answer(client(ready), name, user) == chat
        with run.artifact("evaluation").path("answers.jsonl").open() as file:
            evaluated = [one for given in read_answers(file).values() for one in given if one.prompt]
        assert evaluated
        for one in evaluated:
            messages = [{"role": turn.role, "content": turn.content} for turn in one.prompt]
            assert answer(client(ready), "tiny", messages, max_tokens=4) == one.answer
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        said = process.stderr.read()
    assert LINE not in said
    assert "POST /v1/chat/completions 200" in said


@pytest.mark.slow
def test_open_answers_are_finished_and_new_ones_refused(done: Path) -> None:
    with serving(done) as (process, ready):
        call: Any = {"model": "tiny", "messages": [{"role": "user", "content": LINE}], "temperature": 2, "seed": 5}
        call |= {"n": 8, "max_tokens": 200}
        whole = client(ready).chat.completions.create(**call)
        stream = iter(client(ready).chat.completions.create(stream=True, **call))
        chunks = [next(stream)]
        process.send_signal(signal.SIGTERM)
        while "stopping" not in process.stderr.readline():
            pass
        time.sleep(0.2)
        with pytest.raises(openai.APIConnectionError):
            client(ready).models.list()
        chunks += stream
        texts = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == k) for k in range(8)]
        assert texts == [choice.message.content for choice in whole.choices]
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_released_folder_is_served_wherever_it_lies(done: Path, tmp_path: Path) -> None:
    shutil.copytree(open_run(done).artifact("release").folder, tmp_path / "copy")
    with serving(f"moved={tmp_path / 'copy'}", LUTHIER_API_KEY="quite-secret") as (process, ready):
        assert ready["models"] == ["moved"]
        user = [{"role": "user", "content": LINE}]
        assert answer(client(ready, "quite-secret"), "moved", user) is not None
        with pytest.raises(openai.AuthenticationError):
            answer(client(ready, "other"), "moved", user)
        process.terminate()
        assert "quite-secret" not in process.stderr.read()


def copied(done: Path, to: Path) -> Path:
    """A run with its artifacts, to be spoilt."""
    shutil.copytree(done.parent, to, symlinks=True)
    return to / done.name


def refuses(luthier: Any, *arguments: object) -> str:
    said = luthier("serve", *arguments, "--port", "0")
    assert said.code == 4, said.err
    assert "--unverified serves it all the same" in said.err
    return str(said.err)


def test_what_was_changed_after_the_verdict_is_refused(luthier: Any, done: Path, tmp_path: Path) -> None:
    weights = copied(done, tmp_path / "a")
    path = open_run(weights).artifact("release").path("model/model.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    assert "its bytes changed" in refuses(luthier, weights)
    verdict = copied(done, tmp_path / "b")
    path = open_run(verdict).artifact("verdict").path("verdict.json")
    path.write_text(path.read_text().replace('"pass"', '"fail"', 1))
    assert "its bytes changed" in refuses(luthier, verdict)
    base = copied(done, tmp_path / "c")
    recipe = base / "recipe.yaml"
    other = scenes.make_base(tmp_path / "other", seed=9)
    recipe.write_text(recipe.read_text().replace(str(open_run(done).recipe.model.base), str(other)))
    assert "reached on another base" in refuses(luthier, base)


def test_a_model_that_nobody_judged_is_refused(luthier: Any, base: Path, recipe: Path) -> None:
    assert "no verdict says what this model is worth" in refuses(luthier, base)
    luthier("train")
    assert "the run has no 'verdict' yet" in refuses(luthier)


def test_a_model_that_the_gate_failed_is_refused(luthier: Any, body: Any, tmp_path: Path) -> None:
    body["gate"] = {"rules": ["validation_loss at most 0.001"]}
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    assert luthier("run").code == 4
    assert "the gate says fail" in refuses(luthier)


def test_other_machines_need_a_key(luthier: Any, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUTHIER_API_KEY", raising=False)
    said = luthier("serve", done, "--host", "0.0.0.0")
    assert said.code == 2
    assert "an API key is needed" in said.err
    (tmp_path / "empty").write_text("\n")
    assert "holds no key" in luthier("serve", done, "--api-key-file", tmp_path / "empty").err
    assert "cannot be read" in luthier("serve", done, "--api-key-file", tmp_path / "missing").err


def test_what_cannot_be_served_is_said_before_anything_is_loaded(luthier: Any, done: Path, tmp_path: Path) -> None:
    said = luthier("serve", done, done)
    assert said.code == 2
    assert "two models would be called 'tiny'" in said.err
    assert "luthier serve NAME=RUN" in said.err
    said = luthier("serve", done, "--backend", "vllm")
    assert said.code == 5
    assert "pip install vllm" in said.err
    assert luthier("serve", done, "--backend", "llama.cpp").code == 2
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "share a server" in luthier("serve", done, tmp_path / "model.gguf", "--unverified").err
    assert luthier("serve", "nonsense").code == 2


def test_without_the_packages_it_says_what_to_install(
    luthier: Any, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.pipeline import service

    monkeypatch.setattr(service, "find_spec", lambda name: None if name == "uvicorn" else object())
    said = luthier("serve", done)
    assert said.code == 5
    assert "pip install 'luthier[serve]'" in said.err


def test_a_taken_port_is_a_sentence(done: Path) -> None:
    from luthier.errors import RecipeError
    from luthier.serve.http import bind

    with bind("127.0.0.1", 0) as taken, pytest.raises(RecipeError, match="cannot listen: Address already in use"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_a_release_comes_with_the_files_of_its_service(luthier: Any, body: Any, tmp_path: Path) -> None:
    body["tuning"] = {"kind": "lora", "rank": 4}
    body["release"] = {"merge": False, "deploy": ["vllm", "compose", "kubernetes"]}
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    done = luthier("run", "recipe.yaml", "--json").document
    release = Path(done["artifacts"]["release"])
    assert {path.name for path in (release / "deploy").iterdir()} == {
        "README.md",
        "compose.yaml",
        "kubernetes.yaml",
        "vllm.sh",
    }
    script = (release / "deploy" / "vllm.sh").read_text()
    assert "--lora-modules tiny=../model" in script
    assert "--max-lora-rank 8" in script
    assert str(release) not in script
    body["tuning"] = {"kind": "prompt", "tokens": 4}
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    said = luthier("run", "recipe.yaml")
    assert said.code == 2
    assert "vLLM cannot serve this release: it has no place for PROMPT_TUNING adapters" in said.err


def parity_of(done: Any) -> Any:
    """The parity of a run that came to its end."""
    assert done.code == 0, done.err
    return json.loads((Path(done.document["artifacts"]["release"]) / "parity.json").read_text())


def test_what_cannot_be_merged_is_served_in_the_proof_too(luthier: Any, body: Any, tmp_path: Path) -> None:
    body["tuning"], body["gate"] = {"kind": "prefix", "tokens": 4}, {"rules": ["validation_loss at most 99"]}
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    parity = parity_of(luthier("run", "recipe.yaml", "--json"))
    row = next(row for row in parity["rows"] if row["name"] == "luthier serve")
    assert (row["holds"], row["ids_equal"], row["same"], row["top"]) == (True, True, 1.0, 1.0)
    assert row["kl"] < 1e-3
    assert parity["not_asked"] == {"vLLM": "it needs its package and an NVIDIA GPU"}


def test_every_server_is_part_of_the_proof(
    luthier: Any, body: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours, llama.cpp's for each file, and vLLM, of which only a stand-in that speaks its forms is here."""
    pytest.importorskip("xllamacpp", reason="pip install 'luthier[gguf]'")
    from luthier.pipeline.servers import vllm

    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    stand_in = Path(__file__).parents[2] / "vllm_stand_in.py"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(vllm, "has_vllm", lambda: True)
    monkeypatch.setattr(vllm, "_free", lambda: 0.5)
    body["release"] = {"served": True, "gguf": ["f32", "q8_0"]}
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    parity = parity_of(luthier("run", "recipe.yaml", "--json"))
    found = {row["name"]: row for row in parity["rows"]}
    names = ("luthier serve", "f32 by luthier serve with llama.cpp", "q8_0 by luthier serve with llama.cpp", "vLLM")
    for name in names:
        row = found[name]
        assert (row["holds"], row["ids_equal"]) == (True, True)
        assert (row["kl"], row["top"], row["same"]) != (0.0, 1.0, None)  # it was really asked
        assert row["same"] == 1.0 or name.startswith("q8_0")
    assert found["vLLM"]["gap"] < 1e-3
    assert parity["not_asked"] == {}


def test_a_server_that_renders_otherwise_is_found(
    luthier: Any, body: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.serve import own
    from luthier.text import render_prompt

    body["release"] = {"served": True}
    scenes.write_recipe(tmp_path / "recipe.yaml", body)

    def otherwise(turns: Any, tokenizer: Any, **given: Any) -> list[int]:
        return [5, *render_prompt(turns, tokenizer, **given)]

    monkeypatch.setattr(own, "render_prompt", otherwise)
    done = luthier("run", "recipe.yaml")
    assert done.code == 4
    assert "luthier serve is not the trained model; what differs first is of kind tokenizer" in done.err
