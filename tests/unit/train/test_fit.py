"""The stage as a whole: rows in a folder become a tuned model in a folder, and an interrupted one goes on."""

import copy
import json
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import PLAN, TUNED, base, chat_rows, objective, pair_rows, rows_for, save, seen, tokenizer

from luthier import events
from luthier.errors import Interrupted, TrainingStopped
from luthier.models.load import load_model
from luthier.models.tuned import load_tuned
from luthier.recipe import build_recipe
from luthier.text.render import TrainingRow
from luthier.text.rows import gather
from luthier.train import check, forward
from luthier.train.check import check_head
from luthier.train.fit import Job, _check_pad, fit
from luthier.train.rows import join, rows_digest, used_ids


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    save(folder / "train.safetensors", chat_rows(12))
    save(folder / "validation.safetensors", chat_rows(4))
    return folder


def go(
    dataset: Path,
    out: Path,
    kind: str = "lora",
    on_step: Any = lambda *_: None,
    references: Path | None = None,
    **sections: Any,
) -> Any:
    given = {"name": "t", "data": {"sources": [{"path": "x.jsonl"}]}, "seed": 5, "training": {"epochs": 3}}
    recipe = build_recipe(given | sections)
    out.mkdir(exist_ok=True)
    log = events.Log(out.with_suffix(".jsonl"))
    return fit(Job(recipe, TUNED[kind], PLAN, base(), dataset, out, references=references), tokenizer(), log, on_step)


@pytest.mark.parametrize("kind", sorted(TUNED))
def test_a_dataset_becomes_a_tuned_model(kind: str, dataset: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    losses: list[float] = []

    def watch(step: events.Step, steps: int) -> None:
        told.append((step.step, steps))
        losses.append(step.loss)

    outcome = go(dataset, tmp_path / "out", kind, watch)
    body = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told == [(k + 1, body["planned_steps"]) for k in range(body["planned_steps"])]
    assert body["steps"] == body["planned_steps"] == outcome.steps
    assert body["best_loss"] == outcome.best_loss < losses[0] - 2
    assert body["tokens"] == 3 * int(chat_rows(12).lengths.sum())
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert not left & {"checkpoints", "best.safetensors", "README.md"}
    assert {"training.json", "tokenizer.json", "chat_template.jinja"} <= left
    ids = torch.tensor([[1, 7, 9]])
    with torch.no_grad():
        tuned_logits = load_tuned(base(), tmp_path / "out", TUNED[kind], "float32")(input_ids=ids).logits
        assert not torch.allclose(tuned_logits, load_model(base(), "float32")(input_ids=ids).logits, atol=0.1)


def test_an_interrupted_stage_goes_on_to_the_same_files(dataset: Path, tmp_path: Path) -> None:
    whole = go(dataset, tmp_path / "whole")

    def stop(step: events.Step, _: int) -> None:
        if step.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        go(dataset, tmp_path / "out", on_step=stop)
    assert (tmp_path / "out" / "checkpoints" / "step-00000004").is_dir()
    resumed = go(dataset, tmp_path / "out")
    assert resumed.best_loss == whole.best_loss
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_is_as_long_and_as_watched_as_the_recipe_says(dataset: Path, tmp_path: Path) -> None:
    training = {"epochs": 3, "max_steps": 5, "validate_every": 2, "checkpoint_every": 3}
    assert go(dataset, tmp_path / "out", training=training).steps == 5
    log = events.Log(tmp_path / "out.jsonl")
    assert [e.step for e in seen(log, events.Validated)] == [2, 4, 5]
    assert [e.step for e in seen(log, events.Checkpointed)] == [3]


def test_replay_rows_are_trained_too(dataset: Path, tmp_path: Path) -> None:
    other = chat_rows(20).select(range(12, 20))
    save(dataset / "replay.safetensors", other)
    replay = {"sources": [{"path": "x.jsonl"}], "replay": {"path": "x.jsonl", "share": 0.4}}
    outcome = go(dataset, tmp_path / "out", data=replay)
    own = 3 * int(chat_rows(12).lengths.sum())
    assert own * 1.4 < outcome.tokens < own * 2.2


def test_a_head_that_computes_something_else_is_found_before_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = check.batch_logprobs
    monkeypatch.setattr(check, "batch_logprobs", lambda model, batch: plain(model, batch) * 1.01)
    with pytest.raises(
        TrainingStopped, match="the loss head does not give the model's own log-probabilities"
    ) as caught:
        go(dataset, tmp_path / "out")
    assert caught.value.where == "check before training"
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_numbers_that_are_none_fail_the_check_too() -> None:
    model = load_model(base(), "float32")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainingStopped, match="differ by up to nan"):
        check_head(model, chat_rows(3), packed=True, compute=torch.float32)


def test_the_check_looks_at_fewer_rows_when_there_are_fewer() -> None:
    lone = gather([TrainingRow([1, 7, 9], [False, True, True])])
    assert check_head(load_model(base(), "float32"), lone, packed=True, compute=torch.float32) < 1e-4


def test_replay_rows_are_read_where_they_lie() -> None:
    """Like rows laid end to end, without a copy of them."""
    first, second = chat_rows(5), chat_rows(9).select(range(5, 9))
    both, whole = join(first, second), chat_rows(9)
    assert len(both) == 9
    assert both.lengths.tolist() == whole.lengths.tolist()
    assert both.trained_counts.tolist() == whole.trained_counts.tolist()
    assert [both.row(i) for i in range(9)] == [whole.row(i) for i in range(9)]
    assert used_ids(both) == set(whole.ids.tolist())
    assert rows_digest(both) == rows_digest(whole) != rows_digest(first)
    ends = both.starts[1:] - 1
    assert both.ids[ends].tolist() == whole.ids[ends].tolist()
    assert both.ids[:4].base is not None  # a view
    assert both.ids[:].tolist() == whole.ids.tolist()


def test_what_the_base_says_of_pairs_is_remembered_by_other_runs(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side, count in (("train", 6), ("validation", 3)):
        save(dataset / f"{side}.safetensors", pair_rows(count))
    memory = tmp_path / "references"
    first = go(dataset, tmp_path / "one", objective={"kind": "dpo"}, references=memory)
    assert len(list(memory.iterdir())) == 2
    read = [path.stat().st_mtime_ns for path in sorted(memory.iterdir())]

    def never(*_: Any) -> None:
        raise AssertionError("the base was asked again")

    monkeypatch.setattr(forward, "untuned", never)
    again = go(dataset, tmp_path / "two", objective={"kind": "dpo"}, references=memory)
    assert again.best_loss == first.best_loss
    other = go(dataset, tmp_path / "three", objective={"kind": "dpo", "loss": "ipo"}, references=memory)
    assert other.best_loss != first.best_loss
    assert [path.stat().st_mtime_ns for path in sorted(memory.iterdir())] == read
    with pytest.raises(AssertionError, match="asked again"):  # other weights before training
        go(dataset, tmp_path / "four", "qlora", objective={"kind": "dpo"}, references=memory)


@pytest.mark.parametrize("kind", ["sft", "dpo", "orpo", "kto", "text"])
def test_a_pad_token_that_ends_answers_is_spoken_of(kind: str) -> None:
    words = copy.deepcopy(tokenizer())
    words.pad_token = words.eos_token
    with TemporaryDirectory() as folder:
        log = events.Log(Path(folder) / "log.jsonl")
        _check_pad(objective(kind), rows_for(kind), words, log)
        (warning,) = seen(log, events.Warned)
        assert "the pad token '<|im_end|>' ends answers too" in warning.message
        _check_pad(objective(kind), rows_for(kind), tokenizer(), log)
        assert len(seen(log, events.Warned)) == 1


def test_a_rounded_base_is_trained_beside_and_released_exact(dataset: Path, tmp_path: Path) -> None:
    """The adapter learned, has PEFT's own names, and goes on the base as it was."""
    tuning = TUNED["lora"].model_copy(update={"base": "int8"})
    recipe = build_recipe({"name": "t", "data": {"sources": [{"path": "x.jsonl"}]}, "training": {"epochs": 3}})
    out = tmp_path / "out"
    out.mkdir()
    losses: list[float] = []
    fit(
        Job(recipe, tuning, PLAN, base(), dataset, out),
        tokenizer(),
        events.Log(tmp_path / "log.jsonl"),
        lambda step, _: losses.append(step.loss),
    )
    assert min(losses[-3:]) < losses[0] - 1
    plain = go(dataset, tmp_path / "plain")
    assert plain.best_loss == pytest.approx(json.loads((out / "training.json").read_text())["best_loss"], rel=0.05)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (out, tmp_path / "plain"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert "base" not in json.loads((out / "adapter_config.json").read_text())
    load_tuned(base(), out, tuning, "float32")


def test_without_a_compiler_blocks_stay_plain_and_it_says_so(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.models.compiled.compiler", lambda: None)
    monkeypatch.setitem(PLAN, "compile", True)
    plain = go(dataset, tmp_path / "out")
    (warning,) = [w.message for w in seen(events.Log(tmp_path / "out.jsonl"), events.Warned) if "compiled" in w.message]
    assert "no C++ compiler" in warning
    monkeypatch.setattr("luthier.models.compiled.compiler", lambda: "g++")

    def broken(*_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no such instruction\nand more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    assert go(dataset, tmp_path / "again").best_loss == plain.best_loss
    (warning,) = [
        w.message for w in seen(events.Log(tmp_path / "again.jsonl"), events.Warned) if "compiled" in w.message
    ]
    assert warning == "blocks are not compiled: no such instruction"
