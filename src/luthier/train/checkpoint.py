"""Checkpoints: everything the loop needs to go on to the same bits.

A checkpoint is a folder `step-<n>` with the trainable weights, the optimizer's state, the random state and the loop's
counters. Where the weights are shared out over processes (FSDP), each process writes its shares to files of its own,
`...-<rank>-of-<world>.safetensors`; shares are cut along the first axis, so any number of processes can read them. The
folder is written aside and renamed; `state.json` holds the hash of each file and of its own content, so damage is
noticed and named.
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
from luthier.train.optimizer import trainable
from luthier.train.parallel import Parallel, like, local, put, whole
from luthier.train.source import Source

ALONE = Parallel()
VERSION = 2
Tensors = dict[str, torch.Tensor]


@dataclass(slots=True)
class Progress:
    """The loop's counters; `smooth` is the sum behind the smoothed loss, `seconds` the time in training."""

    step: int = 0
    tokens: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    worse: int = 0
    smooth: float = 0.0
    seconds: float = 0.0


def save_weights(path: Path, model: torch.nn.Module, parallel: Parallel = ALONE) -> None:
    """Write the trainable weights, whole, to one file; every process has to call this, one writes.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    content = {name: whole(p.detach()).cpu().contiguous() for name, p in trainable(model).items()}
    if parallel.first:
        aside = path.with_suffix(".writing")
        _save(content, aside)
        aside.replace(path)


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Put weights written by `save_weights` into the model.

    Raises:
        DataError: the file is damaged or belongs to another model.
    """
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"damaged: {error}", where=str(path), fix="delete it and run again") from error
    _fill(saved, model, path)


def _fill(saved: Mapping[str, torch.Tensor], model: torch.nn.Module, path: Path) -> None:
    wanted = trainable(model)
    if saved.keys() != wanted.keys():
        raise DataError("the weights belong to another model", where=str(path), fix="delete it and run again")
    for name, parameter in wanted.items():
        put(parameter.data, saved[name])


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(dict(tensors), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        raise disk_error(path, error if isinstance(error, OSError) else OSError(str(error))) from error


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    parallel: Parallel = ALONE,
    keep: int = 2,
    source: tuple[Mapping[str, torch.Tensor], dict[str, Any]] = ({}, {}),
) -> Path:
    """Write a checkpoint under `folder` and delete all but the `keep` newest ones; every process has to call this.

    Raises:
        Missing: the disk is full or cannot be written; earlier checkpoints are untouched and nothing half remains.
    """
    place = folder / f"step-{progress.step:08d}"
    aside = folder / ".writing"
    try:
        if parallel.first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        parallel.wait()
        _write(aside, model, optimizer, parallel)
        if parallel.first and source[0]:
            _save({name: tensor.cpu().contiguous() for name, tensor in source[0].items()}, aside / "source.safetensors")
        parallel.wait()
        if parallel.first:
            hashes = {path.name: file_digest(path) for path in sorted(aside.glob("*.safetensors"))}
            state = {"version": VERSION, "files": hashes, "progress": asdict(progress), "source": source[1]}
            write_text(aside / "state.json", json.dumps(state | {"sha256": digest(state)}))
            shutil.rmtree(place, ignore_errors=True)
            aside.rename(place)
    except OSError as error:
        raise disk_error(place, error) from error
    finally:
        if parallel.first:
            shutil.rmtree(aside, ignore_errors=True)
    if parallel.first:
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return place


def _write(aside: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, parallel: Parallel) -> None:
    """This process' files: its shares, or everything where the first process holds that; and its random state."""
    mine = f"-{parallel.rank}-of-{parallel.world}" if parallel.kind == "fsdp" else ""
    if mine or parallel.first:
        weights = {name: local(p.detach()).cpu().contiguous() for name, p in trainable(model).items()}
        _save(weights, aside / f"weights{mine}.safetensors")
        _save(_optimizer_state(model, optimizer), aside / f"optimizer{mine}.safetensors")
    _save(_random_state(), aside / f"random-{parallel.rank}.safetensors")


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)) if folder.is_dir() else []


def load_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    parallel: Parallel = ALONE,
    source: Source | None = None,
) -> tuple[Progress | None, list[str]]:
    """Go back to the newest checkpoint that is whole, written by however many processes.

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
        _fill(_joined(place, "weights"), model, place)
        _restore_optimizer(model, optimizer, _joined(place, "optimizer"))
        random = place / f"random-{parallel.rank}.safetensors"
        if random.exists():  # with more processes than before, the new ones begin with seeds of their own
            _restore_random(load_file(random))
        if source is not None:
            kept = place / "source.safetensors"
            source.restore(load_file(kept) if kept.exists() else {}, state.get("source", {}))
        return Progress(**state["progress"]), problems
    if found:
        raise DataError(
            "every checkpoint is damaged: " + "; ".join(problems),
            where=str(folder),
            fix=f"rm -r {folder} to start over",
        )
    return None, problems


def _joined(place: Path, name: str) -> Tensors:
    """A file's tensors, or those of all shares laid end to end along the first axis."""
    shares = sorted(place.glob(f"{name}-*-of-*.safetensors"), key=lambda path: int(path.name.split("-")[1]))
    parts: list[Tensors] = [load_file(path) for path in shares or [place / f"{name}.safetensors"]]
    if not shares:
        return parts[0]
    return {key: torch.cat([p[key] for p in parts]) if value.ndim else value for key, value in parts[0].items()}


def _read_state(place: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((place / "state.json").read_text(encoding="utf-8"))
        sealed = state.pop("sha256")
        hashes = state["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(place / "state.json")) from error
    if digest(state) != sealed or state.get("version") != VERSION:
        raise DataError("its bytes changed since it was written", where=str(place / "state.json"))
    for name, expected in hashes.items():
        path = place / name
        if not path.is_file() or file_digest(path) != expected:
            raise DataError("its bytes changed since it was written", where=str(path))
    return state


def _optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    names: dict[Any, str] = {p: name for name, p in trainable(model).items()}
    found = {
        f"{key}/{names[parameter]}": local(torch.as_tensor(value).detach()).cpu().contiguous()
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    # bitsandbytes gives all parameters one table, and a file holds no tensor twice
    return {path: tensor.clone() if path.startswith("qmap") else tensor for path, tensor in found.items()}


def _restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, torch.Tensor]
) -> None:
    wanted = trainable(model)
    whole_numbers = not isinstance(
        optimizer, torch.optim.AdamW
    )  # torch keeps `step` as a tensor, bitsandbytes does not
    for path, tensor in saved.items():
        key, _, name = path.partition("/")
        if name in wanted:
            content = like(wanted[name], tensor)  # `step` goes to the device too: fused AdamW wants it there
            optimizer.state[wanted[name]][key] = int(content) if whole_numbers and key == "step" else content


def _random_state() -> Tensors:
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(saved: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(saved["random.cpu"])
    if "random.cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["random.cuda"])
