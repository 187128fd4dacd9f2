"""The stage `train`: load, tune, check, run the loop, save."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from luthier import events
from luthier.artifact import write_text
from luthier.errors import TrainingStopped
from luthier.models.base import Base
from luthier.models.load import DTYPES, DtypeName, load_model
from luthier.models.tuned import save_tuned
from luthier.models.tuning import quantisation, tune
from luthier.recipe import Recipe, Training, Tuning
from luthier.text import TokenRows, load_rows
from luthier.text.tokenizer import Tokenizer
from luthier.train.batches import Update, schedule
from luthier.train.check import check_head
from luthier.train.loop import LoopSettings, Outcome, train
from luthier.train.objectives import OBJECTIVES

VALIDATIONS = 10


def fit(
    recipe: Recipe,
    tuning: Tuning,
    plan: Mapping[str, Any],
    base: Base,
    tokenizer: Tokenizer,
    dataset: Path,
    out: Path,
    log: events.Log,
    on_step: Callable[[events.Step, int], None] = lambda *_: None,
) -> Outcome:
    """Train what the plan says on a dataset artifact and write the tuned model into `out`.

    Args:
        recipe: for the objective, the training section and the seed.
        tuning: as decided by the plan.
        plan: the plan's JSON object.
        base: the base model.
        tokenizer: saved beside the weights.
        dataset: folder with `train.safetensors`, `validation.safetensors` and, with replay, `replay.safetensors`.
        out: the artifact's unfinished folder; the checkpoints of an interrupted attempt in it are resumed.
        log: gets the events.
        on_step: told of each step and of the number of updates.
    """
    dtype: DtypeName = plan["dtype"]
    own, validation = load_rows(dataset / "train.safetensors"), load_rows(dataset / "validation.safetensors")
    replay_path = dataset / "replay.safetensors"
    rows = own + load_rows(replay_path) if replay_path.exists() else own
    updates = _updates(recipe, plan, rows, len(own))
    loaded_as: DtypeName = "float32" if tuning.kind == "full" else dtype  # full tuning keeps float32 master weights
    model = tune(load_model(base, loaded_as, quantise=quantisation(tuning)), tuning, recipe.seed)
    packed = _can_pack(model, rows, DTYPES[loaded_as], log) if plan["packing"] else False
    if not packed:
        check_head(model, rows, packed=False, compute=DTYPES[loaded_as])
    settings = _settings(recipe.training, plan, updates, tokenizer, recipe.seed, packed=packed)
    outcome = train(
        model,
        OBJECTIVES[recipe.objective.kind](),
        rows,
        validation,
        updates,
        settings,
        out,
        log,
        lambda step: on_step(step, len(updates)),
    )
    save_tuned(model, tokenizer, base, out)
    speed = outcome.tokens / outcome.seconds if outcome.seconds else 0.0
    body = asdict(outcome) | {"planned_steps": len(updates), "tokens_per_second": round(speed, 1)}
    write_text(out / "training.json", json.dumps(body, indent=1) + "\n")
    (out / "best.safetensors").unlink(missing_ok=True)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return outcome


def _can_pack(model: Any, rows: TokenRows, compute: torch.dtype, log: events.Log) -> bool:
    """Whether packed rows give this model's own log-probabilities; a warning says so where they do not."""
    try:
        check_head(model, rows, packed=True, compute=compute)
    except TrainingStopped as error:
        log.write(events.Warned(f"{error.what}; every row gets a sequence of its own instead"))
        return False
    return True


def _updates(recipe: Recipe, plan: Mapping[str, Any], rows: TokenRows, own: int) -> list[Update]:
    updates = schedule(
        rows.lengths.tolist(),
        rows.trained_counts.tolist(),
        own=own,
        replay_share=recipe.data.replay.share if recipe.data.replay else 0.0,
        epochs=recipe.training.epochs,
        batch_tokens=plan["batch_tokens"],
        micro_tokens=plan["micro_batch_tokens"],
        seed=recipe.seed,
    )
    return updates[: recipe.training.max_steps]


def _settings(
    training: Training, plan: Mapping[str, Any], updates: list[Update], tokenizer: Tokenizer, seed: int, *, packed: bool
) -> LoopSettings:
    an_epoch = max(1, round(len(updates) / training.epochs))
    every = training.validate_every or max(1, min(an_epoch, len(updates) // VALIDATIONS))
    return LoopSettings(
        learning_rate=plan["learning_rate"],
        schedule=training.schedule,
        warmup=training.warmup,
        weight_decay=training.weight_decay,
        clip=training.clip,
        validate_every=every,
        checkpoint_every=training.checkpoint_every or every,
        patience=training.patience,
        packed=packed,
        micro_tokens=plan["micro_batch_tokens"],
        compute=DTYPES[plan["dtype"]],
        pad=tokenizer.pad_token_id or 0,
        seed=seed,
    )
