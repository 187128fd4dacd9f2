"""Two processes train what one does, and checkpoints in shares are read by any number of processes."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pair
import pytest
import torch
from safetensors.torch import load_file
from tiny import PLAN, TUNED, base, rows_for, save, seen, tokenizer

from luthier import events
from luthier.errors import DataError, TrainingStopped
from luthier.recipe import Lora, Tuning, build_recipe
from luthier.train import launch
from luthier.train.fit import Job, fit
from luthier.train.parallel import Parallel

CASES = [
    ("full", "ddp", "sft"),
    ("full", "fsdp", "dpo"),
    ("lora", "ddp", "kto"),
    ("full", "ddp", "reward"),
    ("lora", "ddp", "orpo"),
    ("lora", "fsdp", "sft"),
    ("int8", "fsdp", "sft"),
    ("qlora", "ddp", "sft"),
]
TUNINGS: dict[str, Tuning] = TUNED | {"int8": Lora(kind="lora", base="int8")}
DEATH, LAST = 3, 2
"""A run dies at this step; its last checkpoint is of that one."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(pair.__file__).parent)}


class Death(BaseException):
    """The process ends here."""


def job(folder: Path, kind: str, objective: str, processes: int, parallel: str) -> Job:
    dataset = folder / objective
    if not dataset.exists():
        dataset.mkdir(parents=True)
        for side, count in (("train", 7), ("validation", 4)):
            save(dataset / f"{side}.safetensors", rows_for(objective, count))
    training = {"epochs": 3, "validate_every": 2, "checkpoint_every": 2}
    sources = {"sources": [{"path": "x.jsonl"}]}
    given = {"name": "t", "data": sources, "objective": {"kind": objective}, "training": training}
    out = folder / f"{kind}-{parallel}-{objective}-{processes}"
    out.mkdir(exist_ok=True)
    plan = PLAN | {"processes": processes, "parallel": parallel}
    return Job(build_recipe(given), TUNINGS[kind], plan, base(), dataset, out)


def alone(task: Job, on_step: Any = lambda *_: None) -> events.Log:
    log = events.Log(task.out.with_suffix(".jsonl"))
    fit(task, tokenizer(), log, on_step)
    return log


def curve(log: events.Log) -> list[float]:
    steps, validations = events.training_curve(log.path)
    return [step.loss for step in steps] + [v.loss for v in validations] + [step.gradient_norm for step in steps]


def die(step: events.Step, _: int) -> None:
    if step.step == DEATH:
        raise Death


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All jobs of two processes, run by one pair of them."""
    folder = tmp_path_factory.mktemp("pair")
    jobs: list[tuple[Job, int | None]] = [(job(folder, k, o, 2, p), None) for k, p, o in CASES]
    shares = job(folder / "shares", "full", "sft", 2, "fsdp")
    one = job(folder / "one", "full", "sft", 1, "one")
    with pytest.raises(Death):
        alone(one, die)
    jobs += [(shares, DEATH), (replace(one, plan=one.plan | {"processes": 2, "parallel": "fsdp"}), None)]
    for number, (task, at) in enumerate(jobs):
        (folder / f"{number}.job").write_text(json.dumps(launch._to_json(task) | {"die_at": at}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | ENVIRONMENT | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, pair.__file__, str(folder)]
    started = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in started:
        _, said = process.communicate(timeout=400)
        assert process.returncode == 0, said[-3000:]
    return folder


def test_an_update_is_tried_on_every_process_that_holds_the_whole_model(done: Path) -> None:
    """With shares it is not: a pass over the whole model would take what the shares save."""
    for number, (_, parallel, _) in enumerate(CASES):
        tried = [event for event in seen(events.Log(done / f"{number}.jsonl"), events.MemoryMeasured) if event.probe]
        assert len(tried) == (parallel == "ddp")
        assert all(event.measured > 10**8 for event in tried)


@pytest.mark.parametrize(("kind", "parallel", "objective"), CASES)
def test_two_processes_have_the_losses_of_one(
    kind: str, parallel: str, objective: str, done: Path, tmp_path: Path
) -> None:
    number = CASES.index((kind, parallel, objective))
    log, task = events.Log(done / f"{number}.jsonl"), job(tmp_path, kind, objective, 1, "one")
    assert curve(log) == pytest.approx(curve(alone(task)), rel=2e-4)
    metrics = [step.metrics for step in seen(log, events.Step)]
    for found, wanted in zip(metrics, seen(events.Log(task.out.with_suffix(".jsonl")), events.Step), strict=True):
        assert found == pytest.approx(wanted.metrics, rel=1e-3, abs=1e-4)
    name = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    found = load_file(done / f"{kind}-{parallel}-{objective}-2" / name)
    wanted = load_file(task.out / name)
    assert found.keys() == wanted.keys()
    assert all((found[key] - wanted[key]).abs().max() < 2e-3 for key in found)


def test_a_checkpoint_of_two_shares_goes_on_in_one_process(done: Path, tmp_path: Path) -> None:
    task = job(done / "shares", "full", "sft", 2, "fsdp")
    place = task.out / "checkpoints" / f"step-{LAST:08d}"
    assert {"weights-0-of-2.safetensors", "optimizer-1-of-2.safetensors"} <= {p.name for p in place.iterdir()}
    half = load_file(place / "weights-1-of-2.safetensors")["model.embed_tokens.weight"]
    assert half.shape == (160, 64)
    log = alone(replace(task, plan=task.plan | {"processes": 1, "parallel": "one"}))
    assert seen(log, events.Resumed)[-1].step == LAST
    expected = curve(alone(job(tmp_path, "full", "sft", 1, "one")))
    late = len(seen(log, events.Step))
    assert curve(log)[:late] == pytest.approx(expected[LAST : LAST + late], rel=2e-4)


def test_a_checkpoint_of_one_process_goes_on_in_two_shares(done: Path, tmp_path: Path) -> None:
    log = events.Log(done / f"{len(CASES) + 1}.jsonl")
    assert seen(log, events.Resumed)[-1].step == LAST
    expected = curve(alone(job(tmp_path, "full", "sft", 1, "one")))
    late = len(seen(log, events.Step))
    assert curve(log)[:late] == pytest.approx(expected[LAST : LAST + late], rel=2e-4)


def test_the_launcher_starts_follows_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    task = job(tmp_path, "lora", "sft", 2, "ddp")
    log, told = events.Log(tmp_path / "log.jsonl"), []
    outcome = launch.run(task, log, lambda step, steps: told.append((step.step, steps)))
    assert told == [(k + 1, outcome.steps) for k in range(outcome.steps)]
    assert len(seen(log, events.Resumed)) == 1  # one process writes
    assert json.loads((task.out / "training.json").read_text())["steps"] == outcome.steps


def test_an_error_of_a_process_comes_back_as_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = job(tmp_path, "lora", "sft", 1, "ddp")
    (task.dataset / "train.safetensors").write_bytes(b"half")
    (tmp_path / "job.json").write_text(json.dumps(launch._to_json(task) | {"log": str(tmp_path / "log.jsonl")}))
    group = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    with pytest.raises(DataError):
        launch.worker(str(tmp_path / "job.json"))
    torch.set_num_threads(threads)
    told = launch._reported(tmp_path)
    assert isinstance(told, DataError)
    assert told.where == str(task.dataset / "train.safetensors")
    assert isinstance(launch._reported(tmp_path / "nothing"), TrainingStopped)


def test_what_was_asked_for_has_to_be_there() -> None:
    with pytest.raises(TrainingStopped, match="2 processes with one were asked for, and there are 1 with Linear"):
        Parallel("one", 0, 2)._assert(torch.nn.Linear(1, 1))
    with pytest.raises(TrainingStopped, match="1 processes with ddp were asked for, and there are 1 with Linear"):
        Parallel("ddp", 0, 1)._assert(torch.nn.Linear(1, 1))


def test_shares_are_equally_many_and_weigh_what_they_are() -> None:
    items = [[0], [1], [2], [3], [4]]
    shares = [Parallel("ddp", rank, 3).share(items) for rank in range(3)]
    assert {len(share) for share in shares} == {2}
    assert sorted(item for share in shares for item, weight in share if weight) == items
