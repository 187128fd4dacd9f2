"""Killed at any moment, interrupted, or with a damaged checkpoint: going on gives the same bits as never stopping."""

import os
import random
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import killed
import pytest
import torch
from killed import STEPS, TUNINGS, run
from tiny import seen, tuned

from luthier import events
from luthier.errors import DataError, Interrupted
from luthier.events import training_curve

Bits = tuple[list[float], list[float], dict[str, torch.Tensor]]


def curve(folder: Path) -> tuple[list[float], list[float]]:
    steps, validations = training_curve(folder / "events.jsonl")
    assert [step.step for step in steps] == list(range(1, STEPS + 1))
    return [step.loss for step in steps], [validation.loss for validation in validations]


def bits(model: Any, folder: Path) -> Bits:
    return *curve(folder), {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@cache
def uninterrupted(kind: str) -> Bits:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="whole-"))
    model = tuned(TUNINGS[kind])
    run(model, folder)
    return bits(model, folder)


def same(found: Bits, expected: Bits) -> None:
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert all(torch.equal(found[2][name], expected[2][name]) for name in expected[2])


def test_two_runs_are_alike_and_dropout_would_show(tmp_path: Path) -> None:
    model = tuned(TUNINGS["lora"])
    torch.rand(5)  # whatever was drawn before
    run(model, tmp_path / "same")
    same(bits(model, tmp_path / "same"), uninterrupted("lora"))
    other = tuned(TUNINGS["lora"])
    run(other, tmp_path / "other", seed=4)
    assert curve(tmp_path / "other") != uninterrupted("lora")[:2]


MOMENT = f"step:{random.randint(2, STEPS - 1)}"  # another one each time; it is in the test's name


@pytest.mark.parametrize(
    ("kind", "moment"),
    [("full", MOMENT), ("lora", MOMENT), ("qlora", MOMENT), ("lora", "writing:2"), ("full", "renamed:3")],
    ids=lambda value: str(value).split(":")[0],
)
def test_killed_and_resumed_is_never_killed(kind: str, moment: str, tmp_path: Path) -> None:
    command = [sys.executable, killed.__file__, str(tmp_path), kind, moment]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(killed.__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stderr}"
    written = sorted(p.name for p in (tmp_path / "checkpoints").glob("*")) if moment != "step:2" else []
    assert (".writing" in written) == moment.startswith("writing")
    model = tuned(TUNINGS[kind])
    run(model, tmp_path)
    same(bits(model, tmp_path), uninterrupted(kind))
    assert not (tmp_path / "checkpoints" / ".writing").exists()


def press(number: int, at: int) -> Any:
    """A watcher of steps that sends this process a signal at one of them."""
    return lambda step: os.kill(os.getpid(), number) if step.step == at else None


@pytest.mark.parametrize(("number", "at"), [(signal.SIGINT, 5), (signal.SIGTERM, 1)])
def test_an_interrupt_saves_first(number: int, at: int, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"stopped after update {at}; the state is saved") as caught:
        run(tuned(TUNINGS["lora"]), tmp_path, press(number, at))
    assert caught.value.exit_code == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    log = events.Log(tmp_path / "events.jsonl")
    assert seen(log, events.Checkpointed)[-1].step == at
    assert seen(log, events.Stopped)[-1].reason == "interrupted"
    model = tuned(TUNINGS["lora"])
    run(model, tmp_path)
    assert seen(log, events.Resumed)[-1].step == at
    same(bits(model, tmp_path), uninterrupted("lora"))


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def twice(step: events.Step) -> None:
        if step.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tuned(TUNINGS["full"]), tmp_path, twice)
    model = tuned(TUNINGS["full"])
    run(model, tmp_path)
    same(bits(model, tmp_path), uninterrupted("full"))


def interrupted(folder: Path) -> list[Path]:
    """A run stopped at update 8: its checkpoints, of updates 6 and 8."""
    with pytest.raises(Interrupted):
        run(tuned(TUNINGS["lora"]), folder, press(signal.SIGINT, 8))
    return sorted((folder / "checkpoints").glob("step-*"))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


FILES = ["weights.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_named(name: str, tmp_path: Path) -> None:
    older, newest = interrupted(tmp_path)
    path = newest / name
    flip(path, path.stat().st_size // 2)
    model = tuned(TUNINGS["lora"])
    run(model, tmp_path)
    log = events.Log(tmp_path / "events.jsonl")
    (warned,) = seen(log, events.Warned)
    assert str(path) in warned.message
    assert seen(log, events.Resumed)[-1].step == 6 == int(older.name[-8:])
    same(bits(model, tmp_path), uninterrupted("lora"))


@pytest.mark.parametrize("name", [*FILES, None])
def test_when_all_are_damaged_training_does_not_start_over_in_silence(name: str | None, tmp_path: Path) -> None:
    for place in interrupted(tmp_path):
        if name:
            flip(place / name, 40)
        else:
            (place / "weights.safetensors").unlink()
    with pytest.raises(DataError, match="every checkpoint is damaged") as caught:
        run(tuned(TUNINGS["lora"]), tmp_path)
    assert str(tmp_path / "checkpoints") in (caught.value.fix or "")


def test_any_changed_bit_of_the_counters_is_noticed(tmp_path: Path) -> None:
    """`state.json` is short, so every byte of it is tried. The last digit of a number may change no value."""
    from luthier.train.checkpoint import _read_state

    place = interrupted(tmp_path)[-1]
    path = place / "state.json"
    whole = _read_state(place)
    harmless = 0
    for at in range(path.stat().st_size):
        flip(path, at)
        try:
            assert _read_state(place) == whole
            harmless += 1
        except DataError as error:
            assert error.where == str(path)  # noqa: PT017 - the few harmless ones raise nothing
        flip(path, at)
    assert harmless <= 2
    assert _read_state(place) == whole


def test_a_checkpoint_of_another_tuning_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with pytest.raises(DataError, match="belong to another model"):
        run(tuned(TUNINGS["full"]), tmp_path)


def test_a_run_out_of_patience_makes_no_update_more_when_resumed(tmp_path: Path) -> None:
    """Killed after the last checkpoint, before the weights were handed over."""
    limits = {"learning_rate": 1e-30, "patience": 2}  # nothing moves, so no validation is better than the first
    logs = events.Log(tmp_path / "events.jsonl")

    def checked(model: Any) -> None:
        with pytest.raises(Exception, match="no trained weight moved"):
            run(model, tmp_path, **limits)

    checked(tuned(TUNINGS["full"]))
    assert seen(logs, events.Checkpointed)[-1].step == 6 == seen(logs, events.Stopped)[-1].step
    checked(tuned(TUNINGS["full"]))
    assert seen(logs, events.Resumed)[-1].step == 6
    assert seen(logs, events.Step)[-1].step == 6
