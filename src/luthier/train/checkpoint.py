"""Checkpoints: everything the loop needs to go on to the same bits.

A checkpoint is a folder `step-<n>` with the trainable weights, the optimizer's state, the random state and the loop's
counters. It is written aside and renamed; `state.json` holds the hash of each file and of its own content, so damage
is noticed and named.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from luthier.artifact import digest, disk_error, file_digest, write_text
from luthier.errors import DataError

KEEP = 2
_FILES = ("weights.safetensors", "optimizer.safetensors")


@dataclass(slots=True)
class Progress:
    """The loop's counters."""

    step: int = 0
    tokens: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    worse: int = 0


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_weights(path: Path, model: torch.nn.Module) -> None:
    """Write the trainable weights to one file.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    _save({name: p.detach().cpu().contiguous() for name, p in trainable(model).items()}, path)


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Put weights written by `save_weights` into the model.

    Raises:
        DataError: the file is damaged or belongs to another model.
    """
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"damaged: {error}", where=str(path), fix="delete it and run again") from error
    wanted = trainable(model)
    if saved.keys() != wanted.keys():
        raise DataError("the weights belong to another model", where=str(path), fix="delete it and run again")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(dict(tensors), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        raise disk_error(path, error if isinstance(error, OSError) else OSError(str(error))) from error


def save_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
    """Write a checkpoint under `folder` and delete all but the newest ones.

    Raises:
        Missing: the disk is full or cannot be written; earlier checkpoints are untouched and nothing half remains.
    """
    place = folder / f"step-{progress.step:08d}"
    aside = folder / ".writing"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_weights(aside / "weights.safetensors", model)
        _save(_optimizer_state(model, optimizer) | _random_state(), aside / "optimizer.safetensors")
        hashes = {name: file_digest(aside / name) for name in _FILES}
        state = {"version": 1, "files": hashes, "progress": asdict(progress)}
        write_text(aside / "state.json", json.dumps(state | {"sha256": digest(state)}))
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
    except OSError as error:
        raise disk_error(place, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in _checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)) if folder.is_dir() else []


def load_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress | None, list[str]]:
    """Go back to the newest checkpoint that is whole.

    Returns:
        Its counters (None when there is no checkpoint at all), and a sentence for each damaged one that was passed
        over.

    Raises:
        DataError: there are checkpoints, and all are damaged.
    """
    problems: list[str] = []
    found = _checkpoints(folder)
    for place in reversed(found):
        try:
            state = _read_state(place)
        except DataError as error:
            problems.append(f"checkpoint passed over: {error.where}: {error.what}")
            continue
        load_weights(place / "weights.safetensors", model)
        saved = load_file(place / "optimizer.safetensors")
        _restore_optimizer(model, optimizer, saved)
        _restore_random(saved)
        return Progress(**state["progress"]), problems
    if found:
        raise DataError(
            "every checkpoint is damaged: " + "; ".join(problems),
            where=str(folder),
            fix=f"rm -r {folder} to start over",
        )
    return None, problems


def _read_state(place: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((place / "state.json").read_text(encoding="utf-8"))
        sealed = state.pop("sha256")
        hashes = state["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(place / "state.json")) from error
    if digest(state) != sealed:
        raise DataError("its bytes changed since it was written", where=str(place / "state.json"))
    for name in _FILES:
        path = place / name
        if not path.is_file() or file_digest(path) != hashes.get(name):
            raise DataError("its bytes changed since it was written", where=str(path))
    return state


def _optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names: dict[Any, str] = {p: name for name, p in trainable(model).items()}
    return {
        f"{key}/{names[parameter]}": torch.as_tensor(value).detach().cpu().contiguous()
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def _restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, torch.Tensor]
) -> None:
    wanted = trainable(model)
    for path, tensor in saved.items():
        key, _, name = path.partition("/")
        if name in wanted:
            parameter = wanted[name]
            optimizer.state[parameter][key] = tensor.to(parameter.device)  # `step` too: fused AdamW wants it there


def _random_state() -> dict[str, torch.Tensor]:
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(saved: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(saved["random.cpu"])
    if "random.cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["random.cuda"])
