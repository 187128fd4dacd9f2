"""What a tuning of a model takes, from the model's config alone: no rows, no weights."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from luthier.errors import Missing, RecipeError
from luthier.models.base import UKULELE, Base, ukulele_file
from luthier.plan import find_hardware
from luthier.plan.alternatives import MACHINES
from luthier.plan.compute import flops_per_token
from luthier.plan.decide import FULL, check_bits
from luthier.plan.memory import Setting, memory_parts
from luthier.plan.rates import default_rate
from luthier.recipe import Recipe, build_recipe

LENGTH = 2048
EFFECTIVE = ("tuning.", "objective.", "training.memory=", "training.optimizer=", "model.dtype=")
"""Settings of a recipe that matter where there are no rows."""


def plan_model(
    name: str,
    method: str,
    rank: int | None,
    targets: Sequence[str] | None,
    length: int | None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Parameters, rate, compute and memory of one tuning of a model.

    Args:
        name: a config.json, a folder with one, or a hub id.
        method: kind of the tuning.
        rank: of `lora` and `qlora`.
        targets: layers that get adapters.
        length: tokens of one forward pass, as one row; `LENGTH`, or the context where that is less, when None.
        overrides: more settings, such as `tuning.bits=8`.

    Raises:
        RecipeError: there is no such model, tuning or layer, a setting would have no effect, or the model does not
            take it.
        Missing: the hub cannot be reached.
    """
    from luthier.models.counting import model_facts, trainable_parameters
    from luthier.models.load import quiet, training_dtype

    quiet()
    recipe = _recipe(method, rank, targets, overrides)
    tuning, goal = recipe.tuning, recipe.objective.kind
    with TemporaryDirectory() as aside:
        base = Base(name, _config_folder(name, Path(aside)), None, trust_remote_code=False)
        facts, trainable = model_facts(base), trainable_parameters(base, tuning, scores=goal == "reward")
    check_bits(tuning, facts)
    length = _length(length, facts.context)
    asked = recipe.model.dtype
    hardware, dtype = find_hardware(), training_dtype(asked)

    def needs(gpu: bool, dtype: str) -> dict[str, int]:
        training = recipe.training
        setting = Setting(
            tuning,
            trainable,
            dtype,
            length,
            recompute=facts.layers if training.memory == "lean" else 0,
            optimizer=training.optimizer,
            gpu=gpu,
        )
        return memory_parts(facts, setting)

    memory = needs(bool(hardware.gpus), dtype)
    room = hardware.gpus[0].memory if hardware.gpus else hardware.memory
    there = needs(True, "bfloat16" if asked == "auto" else asked)["total"]
    cards = {card: gpus[0].memory for card, gpus in MACHINES.items() if len(gpus) == 1}
    whole = 0 if tuning.kind in ("full", "freeze") else trainable
    return {
        "model": name,
        "method": tuning.kind,
        "trainable_parameters": trainable,
        "total_parameters": facts.total + whole,
        "dtype": dtype,
        "learning_rate": default_rate(tuning.kind, goal, facts.hidden),
        "flops_per_token": flops_per_token(facts, tuning, trainable, length=length, labelled=1.0),
        "length": length,
        "memory": memory,
        "hardware": str(hardware),
        "fits": "it fits" if memory["total"] < FULL * room else f"it does not fit: {room / 1e9:.0f} GB are there",
        "cards": {card: {"memory": there, "fits": there < FULL * size} for card, size in cards.items()},
    }


def _length(asked: int | None, context: int) -> int:
    """Tokens of one forward pass that the model can read."""
    length = min(LENGTH, context) if asked is None else asked
    if not 0 < length <= context:
        raise RecipeError(
            f"{length:,} tokens do not fit the model's context of {context:,}",
            where="--length",
            fix=f"--length {context}",
        )
    return length


def _recipe(method: str, rank: int | None, targets: Sequence[str] | None, overrides: Sequence[str]) -> Recipe:
    """A recipe of which only the tuning, and what goes with it, matters."""
    if idle := [given for given in overrides if not given.startswith(EFFECTIVE)]:
        raise RecipeError(
            f"'{idle[0]}' would have no effect without rows",
            where="--model",
            fix="leave it out; what matters: " + ", ".join(name.rstrip("=.") for name in EFFECTIVE),
        )
    asked: dict[str, Any] = {"kind": method}
    if rank is not None:
        asked["rank"] = rank
    if targets is not None:
        asked["target_modules"] = list(targets)
    tree = {"name": "plan", "data": {"sources": [{"path": "rows.jsonl"}]}, "tuning": asked}
    recipe = build_recipe(tree, overrides, where="--model")
    if recipe.tuning.kind == "auto":
        raise RecipeError("without rows the plan cannot choose", where="--method", fix="name a tuning, such as lora")
    return recipe


def _config_folder(name: str, aside: Path) -> Path:
    """A folder with the model's config.json."""
    path = Path(name)
    if name == UKULELE:
        return ukulele_file("")
    if path.is_dir() and (path / "config.json").exists():
        return path
    if path.is_file():
        shutil.copyfile(path, aside / "config.json")
        return aside
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    raise RecipeError(f"there is no model '{name}'", where="--model", fix="give a config.json, a folder or a hub id")


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json")).parent
    except RepositoryNotFoundError as error:
        raise RecipeError(f"the hub has no model '{name}', or it is gated", where="--model", fix="check it") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Missing(
            f"the hub cannot be reached for the config of '{name}'",
            where="--model",
            fix="connect, or give the path of its config.json",
        ) from error
