"""What would be a wasted run stops, with the cause and the place; a full disk loses nothing that was saved."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tiny import TUNED, chat_rows, plan, seen, settings, tuned

from luthier import events
from luthier.errors import Missing, TrainingStopped
from luthier.recipe import Sft as Section
from luthier.train import checkpoint
from luthier.train.loop import train
from luthier.train.objectives.sft import Sft
from luthier.train.source import Settled

ROWS = chat_rows(8)


def go(model: Any, folder: Path, kind: str = "full", **changes: Any) -> Any:
    log = events.Log(folder / "events.jsonl")
    return train(
        model, Sft(Section()), Settled(ROWS, ROWS, plan(ROWS, epochs=3, micro=64)), settings(**changes), folder, log
    )


def steps(folder: Path) -> list[events.Step]:
    return seen(events.Log(folder / "events.jsonl"), events.Step)


def nothing_half(folder: Path) -> None:
    names = [p.name for p in folder.rglob("*")]
    assert not [name for name in names if "writing" in name or name.endswith("tmp")], names


def test_a_poisoned_weight_stops_at_the_first_update(tmp_path: Path) -> None:
    model = tuned(TUNED["full"])
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(TrainingStopped, match="the loss is not finite") as caught:
        go(model, tmp_path)
    assert caught.value.where == "update 1"
    assert caught.value.exit_code == 4
    assert len(steps(tmp_path)) == 1
    assert not (tmp_path / "best.safetensors").exists()


def test_a_gradient_that_is_not_finite_stops_though_the_loss_is_fine(tmp_path: Path) -> None:
    model = tuned(TUNED["full"])
    model.model.layers[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingStopped, match="the gradient is not finite") as caught:
        go(model, tmp_path)
    assert caught.value.where == "update 1"


def test_a_rate_far_too_high_stops(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="is not finite") as caught:
        go(tuned(TUNED["full"]), tmp_path, learning_rate=1e38, warmup=0.0)
    assert "lower training.learning_rate" in (caught.value.fix or "")


def test_a_validation_loss_that_is_not_finite_stops_before_it_is_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="the validation loss is not finite"):
        go(tuned(TUNED["full"]), tmp_path, learning_rate=1e38, warmup=0.0, validate_every=1)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_gradient_of_zero_stops(tmp_path: Path) -> None:
    """An adapter whose output is cut off: nothing reaches it on the way back."""
    model = tuned(TUNED["lora"])
    for name, module in model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            module.register_forward_hook(lambda _, __, out: out.detach() * 0 + out * 0)
    with pytest.raises(TrainingStopped, match="the gradient is zero: nothing would be learned") as caught:
        go(model, tmp_path)
    assert caught.value.where == "update 1"
    assert "target_modules" in (caught.value.fix or "")


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_weights_that_do_not_move_stop(kind: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="no trained weight moved"):
        go(tuned(TUNED[kind]), tmp_path, learning_rate=0.0)


def test_a_single_tensor_that_does_not_move_is_warned_of(tmp_path: Path) -> None:
    model = tuned(TUNED["lora"])
    still = model.base_model.model.model.layers[0].self_attn.q_proj
    still.lora_A.default.weight.register_hook(torch.zeros_like)
    go(model, tmp_path, weight_decay=0.0)
    (warned,) = seen(events.Log(tmp_path / "events.jsonl"), events.Warned)
    assert warned.message.startswith("1 of 28 trained tensors did not move, the first is ")
    assert "layers.0.self_attn.q_proj.lora_A" in warned.message


def test_patience_ends_a_run_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    """Validation rows that training works against: the loss on them only rises after a while."""
    model = tuned(TUNED["full"])
    against = chat_rows(12).select([8, 9, 10, 11])
    log = events.Log(tmp_path / "events.jsonl")
    updates = plan(ROWS, epochs=100, batch=512, micro=256)
    limits = settings(validate_every=5, patience=2, learning_rate=1e-2, micro_tokens=256)
    outcome = train(model, Sft(Section()), Settled(ROWS, against, updates), limits, tmp_path, log)
    validations = seen(log, events.Validated)
    assert outcome.steps < len(updates)
    assert outcome.stopped == "no better validation loss in 2 validations"
    assert outcome.best_loss == min(v.loss for v in validations) == validations[-3].loss
    assert outcome.best_step == outcome.steps - 10
    saved = checkpoint.load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(saved[name], p) for name, p in model.named_parameters())


def os_full() -> Exception:
    return OSError(errno.ENOSPC, "No space left on device")


def rust_full() -> Exception:
    return SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [os_full, rust_full])
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "best.writing"])
def test_a_full_disk_is_said_and_earlier_checkpoints_stay(
    name: str, error: Callable[[], Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = checkpoint.save_file
    written = 0

    def fills_up(tensors: Any, path: Path) -> None:
        nonlocal written
        written += path.name == name
        if path.name == name and written == 2:
            path.write_bytes(b"half of it")
            raise error()
        plain(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fills_up)
    with pytest.raises(Missing, match="No space left on device") as caught:
        go(tuned(TUNED["full"]), tmp_path, checkpoint_every=1, validate_every=1)
    assert caught.value.exit_code == 5
    nothing_half(tmp_path)
    monkeypatch.undo()
    model = tuned(TUNED["full"])
    assert checkpoint.load_checkpoint(tmp_path / "checkpoints", model, torch.optim.AdamW(model.parameters()))[0]
    checkpoint.load_weights(tmp_path / "best.safetensors", model)
    assert go(model, tmp_path).steps == len(plan(ROWS, epochs=3, micro=64))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    go(tuned(TUNED["lora"]), tmp_path, checkpoint_every=1)
    last = len(plan(ROWS, epochs=3, micro=64))
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in (last - 2, last - 1)]


def test_damaged_best_weights_are_named(tmp_path: Path) -> None:
    go(tuned(TUNED["lora"]), tmp_path)
    path = tmp_path / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Exception, match="damaged") as caught:
        checkpoint.load_weights(path, tuned(TUNED["lora"]))
    assert caught.value.where == str(path)  # type: ignore[attr-defined]
