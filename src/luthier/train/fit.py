"""The stage `train`: load, tune, check, run the loop, save."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from luthier import events
from luthier.artifact import digest, make_folder, write_text
from luthier.errors import DataError, TrainingStopped
from luthier.models.attention import NAME, attention
from luthier.models.base import Base
from luthier.models.compiled import compile_blocks, why_not
from luthier.models.fast_lora import make_fast
from luthier.models.fastest import speeds
from luthier.models.load import DTYPES, DtypeName, device, load_model
from luthier.models.logprobs import hidden_states
from luthier.models.prompts import learns_prompt
from luthier.models.roles import without_critic
from luthier.models.rounded import round_base
from luthier.models.tuned import save_tuned
from luthier.models.tuning import MUTATING, WHOLE, causal_model, quantisation, tune
from luthier.models.untrained import untrained_tokens
from luthier.recipe import Lora, Policy, Recipe, Training, Tuning
from luthier.recipe.training import PATIENCE
from luthier.text import TokenRows, load_rows
from luthier.text.tokenizer import Tokenizer
from luthier.train.batches import Update, schedule
from luthier.train.check import check_head, check_scores, check_shared
from luthier.train.checkpoint import load_weights
from luthier.train.curve import overfitting
from luthier.train.forward import Forward, add_reference, spread, together
from luthier.train.loop import TRACE, LoopSettings, Outcome, train
from luthier.train.objectives import OBJECTIVES, Objective, PolicyObjective
from luthier.train.parallel import Parallel
from luthier.train.probe import measured, probe
from luthier.train.rollout import Rollouts
from luthier.train.rows import join, rows_digest, used_ids
from luthier.train.source import Settled, Source
from luthier.train.start import keep_report, keep_scale, rollouts

VALIDATIONS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """What one process needs to know to train: the recipe, the tuning and the plan as decided, and where things are.

    `dataset` is a folder with `train.safetensors`, `validation.safetensors` and, with replay, `replay.safetensors`;
    `out` the artifact's unfinished folder, in which the checkpoints of an interrupted attempt are resumed; `references`
    a folder for what this base says of rows before training, which other runs with the same base and rows read too.
    """

    recipe: Recipe
    tuning: Tuning
    plan: Mapping[str, Any]
    base: Base
    dataset: Path
    out: Path
    home: Path = Path()
    """The recipe's folder: rewards are looked for there."""
    references: Path | None = None


def fit(
    job: Job,
    tokenizer: Tokenizer,
    log: events.Log,
    on_step: Callable[[events.Step, int], None] = lambda *_: None,
    parallel: Parallel = Parallel(),  # noqa: B008 - frozen
) -> Outcome:
    """Train what the plan says on a dataset artifact and write the tuned model into `job.out`.

    Args:
        job: what to train.
        tokenizer: saved beside the weights.
        log: gets the events.
        on_step: told of each step and of the number of updates.
        parallel: this process among others; the first one writes.
    """
    recipe, plan, dtype = job.recipe, job.plan, _loaded_as(job)
    objective = OBJECTIVES[recipe.objective.kind](recipe.objective)
    rows, validation, own = _rows(job, objective)
    _check_pad(objective, rows, tokenizer, log)
    model = _model(job, objective)
    _quicken(job, model, log)
    if job.tuning.kind != "full":
        _warn_of_untrained(model, rows, tokenizer, job.base.new_tokens, log)
    packed = _can_pack(model, rows, objective, DTYPES[dtype], log) if plan["packing"] else False
    if not packed:
        _check(model, rows, objective, packed=False, compute=DTYPES[dtype])
    if isinstance(objective, PolicyObjective):
        made = rollouts(job, model, objective, tokenizer, log, parallel, packed=packed)
        limits = _settings(job, len(made), made.every, tokenizer, packed=packed)
        return _train(job, model, objective, made, limits, tokenizer, log, on_step, parallel)
    updates = _updates(recipe, plan, rows, own, objective.group)
    settings = _settings(job, len(updates), _every(recipe, len(updates)), tokenizer, packed=packed)
    shared = packed and _can_share(model, rows, objective, job, log)
    settings = replace(settings, shared=shared)
    if objective.reference:
        parts = (rows, validation)
        rows, validation = (_with_reference(job, model, part, settings, parallel, objective.group) for part in parts)
        parallel.wait()
    if recipe.training.probe and parallel.kind != "fsdp" and not (job.out / "checkpoints").exists():
        settings, updates = _fitted(job, model, objective, rows, own, settings, updates, log, parallel)
    source = Settled(rows, validation, updates)
    return _train(job, model, objective, source, settings, tokenizer, log, on_step, parallel)


def _train(
    job: Job,
    model: torch.nn.Module,
    objective: Objective,
    source: Source,
    settings: LoopSettings,
    tokenizer: Tokenizer,
    log: events.Log,
    on_step: Callable[[events.Step, int], None],
    parallel: Parallel,
) -> Outcome:
    """Run the loop and save what it leaves."""

    def told(step: events.Step) -> None:
        on_step(step, len(source))

    outcome = train(model, objective, source, settings, job.out, log, told, parallel)
    log.write(events.MemoryMeasured(job.plan["memory"]["total"], measured(device()), probe=False))
    if parallel.first:
        found = None if source.fresh else overfitting(*events.training_curve(log.path))
        if found:
            log.write(events.Warned(found))
        more: dict[str, Any] = {"planned_steps": len(source), "overfitting": found}
        if isinstance(source, Rollouts):
            more["held_out"] = -outcome.best_loss
            keep_report(source, job.out)
        with without_critic(model):
            _finish(job, model, tokenizer, outcome, parallel, more)
        if objective.scores and isinstance(source, Settled):
            keep_scale(job, source.rows)
    parallel.wait()
    return outcome


def _with_reference(
    job: Job, model: torch.nn.Module, rows: TokenRows, settings: LoopSettings, parallel: Parallel, group: int
) -> TokenRows:
    """The rows with what the model says of them before training, from an earlier run where one computed just that."""
    changed = job.tuning.init if isinstance(job.tuning, Lora) and job.tuning.init in MUTATING else None
    bits = quantisation(job.tuning)
    what = [
        job.plan["dtype"],
        _loaded_as(job),
        None if bits is None else bits.model_dump(mode="json"),
        getattr(job.tuning, "base", "exact"),
        changed,
        job.base.new_tokens,
    ]
    key = digest([*what, rows_digest(rows), settings.packed, settings.shared, settings.micro_tokens])
    folder = job.references or job.out
    make_folder(folder)
    forward = Forward(settings.packed, settings.pad, settings.compute, device(), settings.shared)
    cache = folder / f"reference-{key[:16]}.safetensors"
    return add_reference(model, rows, forward, settings.micro_tokens, parallel, cache, group)


def _fitted(
    job: Job,
    model: torch.nn.Module,
    objective: Objective,
    rows: TokenRows,
    own: int,
    settings: LoopSettings,
    updates: list[Update],
    log: events.Log,
    parallel: Parallel,
) -> tuple[LoopSettings, list[Update]]:
    """Settings and updates with passes small enough for this machine, as one tried update shows.

    The passes of an update only decide over memory: its rows stay together, and so its loss and gradient are the same.
    """
    plan = dict(job.plan)
    longest = max(together(rows.lengths.tolist(), objective.group))
    while probe(model, objective, rows, updates, settings, plan, log, parallel) > plan["memory_available"]:
        if settings.micro_tokens <= longest:
            break
        plan["micro_batch_tokens"] = max(longest, settings.micro_tokens // 2)
        settings = replace(settings, micro_tokens=plan["micro_batch_tokens"])
        updates = _updates(job.recipe, plan, rows, own, objective.group)
        log.write(events.Warned(f"so one forward pass holds {settings.micro_tokens:,} tokens instead"))
    return settings, updates


def _loaded_as(job: Job) -> DtypeName:
    """Trained weights of the base itself are kept in float32; what is frozen, in the plan's format."""
    planned: DtypeName = job.plan["dtype"]
    return "float32" if job.tuning.kind in WHOLE else planned


def _model(job: Job, objective: Objective) -> torch.nn.Module:
    loaded = load_model(job.base, _loaded_as(job), quantise=quantisation(job.tuning), scores=objective.scores)
    return tune(loaded, job.tuning, job.recipe.seed)


def _quicken(job: Job, model: torch.nn.Module, log: events.Log) -> None:
    """Round the base if the tuning says so, and put the fast layers in place."""
    if isinstance(job.tuning, Lora) and job.tuning.base != "exact":
        pays = speeds().multiplies_int8
        round_base(model, job.tuning.base, multiplies=pays)
        if job.tuning.base == "int8" and not pays:
            log.write(
                events.Warned(
                    "this machine does not multiply 8-bit integers faster than float32: the rounded base saves memory, "
                    "not time"
                )
            )
    make_fast(model)
    if not job.plan.get("compile"):
        return
    whole = job.plan["recompute"]
    choosing = range(whole, whole + job.plan["cheap"])
    if reason := why_not(model, choosing):
        log.write(events.Warned(f"blocks are not compiled: {reason}"))
        return
    _try_compiled(job, model, choosing, log)


def _try_compiled(job: Job, model: torch.nn.Module, plain: range, log: events.Log) -> None:
    """Compile the blocks and run one pass through them; what the compiler cannot do is said, and done without it."""
    undo = compile_blocks(model, plain)
    forward = Forward(True, 0, DTYPES[job.plan["dtype"]], device())
    rows = load_rows(job.dataset / "train.safetensors")
    model.train()
    try:
        with attention(causal_model(model), NAME), forward.autocast:
            torch.autograd.backward(hidden_states(model, forward.lay(rows, [0])).sum())
    except Exception as error:  # compilers fail in many ways
        undo()
        torch._dynamo.reset()
        log.write(events.Warned(f"blocks are not compiled: {str(error).strip().splitlines()[0][:200]}"))
    finally:
        model.zero_grad(set_to_none=True)


def _rows(job: Job, objective: Objective) -> tuple[TokenRows, TokenRows, int]:
    """Training rows with those of replay after them, validation rows, and how many of the first are the user's."""
    own, validation = (load_rows(job.dataset / f"{side}.safetensors") for side in ("train", "validation"))
    replay = job.dataset / "replay.safetensors"
    rows = join(own, load_rows(replay)) if replay.exists() else own
    return objective.rows(rows), objective.rows(validation), len(objective.rows(own))


def _finish(
    job: Job,
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    outcome: Outcome,
    parallel: Parallel,
    more: Mapping[str, Any],
) -> None:
    """Save the tuned model and what is to be known of its training; what was only needed to resume goes."""
    if parallel.kind == "fsdp":  # this process holds a share; the best weights are whole on disk
        model = _model(job, OBJECTIVES[job.recipe.objective.kind](job.recipe.objective))
        load_weights(job.out / "best.safetensors", model)
    save_tuned(model, tokenizer, job.base, job.out)
    speed = outcome.tokens / outcome.seconds if outcome.seconds else 0.0
    body = asdict(outcome) | {**more, "tokens_per_second": round(speed, 1)}
    write_text(job.out / "training.json", json.dumps(body, indent=1) + "\n")
    later = [path for step, path in traced(job.out).items() if step >= outcome.best_step]  # of no use: they were undone
    for path in (job.out / "best.safetensors", *job.out.glob("reference-*.safetensors"), *later):
        path.unlink(missing_ok=True)
    shutil.rmtree(job.out / "checkpoints", ignore_errors=True)


def traced(folder: Path) -> dict[int, Path]:
    """The models on the way to the tuned one in its folder, by update."""
    return {int(path.stem.removeprefix("step-")): path for path in sorted((folder / TRACE).glob("step-*.safetensors"))}


def on_the_way(job: Job) -> Callable[[int], Any]:
    """From an update of `traced(job.out)` to the model as it was then; one at a time, for they share their memory."""
    model = _model(job, OBJECTIVES[job.recipe.objective.kind](job.recipe.objective))

    def at(step: int) -> Any:
        load_weights(traced(job.out)[step], model)
        return model

    return at


def _warn_of_untrained(
    model: torch.nn.Module, rows: TokenRows, tokenizer: Tokenizer, new: Sequence[str], log: events.Log
) -> None:
    """Name control tokens in the rows that the base never learned: a base model with its chat sibling's template."""
    controls = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special and t.content not in new}
    used = controls.intersection(used_ids(rows))
    if found := untrained_tokens(causal_model(model), used):
        names = ", ".join(tokenizer.convert_ids_to_tokens(found))
        log.write(
            events.Warned(
                f"the base never learned {names}: their embeddings are untrained. Name them in model.new_tokens, which "
                "trains them, start from the chat model, or give model.chat_template in plain words"
            )
        )


def _check_pad(objective: Objective, rows: TokenRows, tokenizer: Tokenizer, log: events.Log) -> None:
    """Say what a pad token that also ends answers means.

    Here padding has no label and no weight, so ends are learned all the same. A classifier of transformers, though,
    reads the score at the last token that is not padding.
    """
    pad = tokenizer.pad_token_id
    ends = set(rows.ids[rows.starts[1:] - 1].tolist()) | {tokenizer.eos_token_id}
    if objective.scores and (pad is None or pad in ends):
        what = "there is no pad token" if pad is None else f"the pad token {tokenizer.pad_token!r} also ends rows"
        raise DataError(
            f"{what}, so whoever opens the reward model would read its score at another place",
            where="tokenizer",
            fix="give it a pad token of its own in tokenizer_config.json",
        )
    if pad is not None and pad in ends:
        log.write(
            events.Warned(
                f"the pad token {tokenizer.pad_token!r} ends answers too. They are learned here all the same, since "
                "padding never has a label; a tool that masks labels by the pad token's id would unlearn them: give "
                "the tokenizer a pad token of its own before training the model on elsewhere"
            )
        )


def _check(model: Any, rows: TokenRows, objective: Objective, *, packed: bool, compute: torch.dtype) -> None:
    check = check_scores if objective.scores else check_head
    check(model, rows, packed=packed, compute=compute)


def _can_pack(model: Any, rows: TokenRows, objective: Objective, compute: torch.dtype, log: events.Log) -> bool:
    """Whether packed rows give this model's own numbers; a warning says so where they do not."""
    try:
        _check(model, rows, objective, packed=True, compute=compute)
    except TrainingStopped as error:
        log.write(events.Warned(f"{error.what}; every row gets a sequence of its own instead"))
        return False
    return True


def _can_share(model: Any, rows: TokenRows, objective: Objective, job: Job, log: events.Log) -> bool:
    """Whether pairs give the same when what they begin with is computed once; a warning says so where they do not."""
    if not objective.shares or learns_prompt(model) or job.recipe.training.neftune:
        return False
    try:
        check_shared(model, rows, scores=objective.scores, compute=DTYPES[job.plan["dtype"]])
    except TrainingStopped as error:
        log.write(events.Warned(f"{error.what}; each row of a pair is computed whole instead"))
        return False
    return True


def _updates(recipe: Recipe, plan: Mapping[str, Any], rows: TokenRows, own: int, group: int) -> list[Update]:
    """The schedule, over groups of rows that belong together, in row numbers."""
    updates = schedule(
        together(rows.lengths.tolist(), group),
        together(rows.trained_counts.tolist(), group),
        own=own // group,
        replay_share=recipe.data.replay.share if recipe.data.replay else 0.0,
        epochs=recipe.training.epochs,
        batch_tokens=plan["batch_tokens"],
        micro_tokens=plan["micro_batch_tokens"],
        seed=recipe.seed,
    )
    return [[spread(numbers, group) for numbers in update] for update in updates[: recipe.training.max_steps]]


def _every(recipe: Recipe, updates: int) -> int:
    """Updates between validations: ten to a run, at least one an epoch."""
    return max(1, min(max(1, round(updates / recipe.training.epochs)), updates // VALIDATIONS))


def _settings(job: Job, updates: int, every: int, tokenizer: Tokenizer, *, packed: bool) -> LoopSettings:
    training: Training = job.recipe.training
    every = training.validate_every or every
    # A reward does not rise evenly; what ends such a run is its monitor.
    usual = updates + 1 if isinstance(job.recipe.objective, Policy) else PATIENCE
    patience = usual if training.patience is None else training.patience
    return LoopSettings(
        learning_rate=job.plan["learning_rate"],
        schedule=training.schedule,
        warmup=training.warmup,
        weight_decay=training.weight_decay,
        clip=training.clip,
        validate_every=every,
        checkpoint_every=training.checkpoint_every or every,
        patience=patience,
        packed=packed,
        micro_tokens=job.plan["micro_batch_tokens"],
        compute=DTYPES[job.plan["dtype"]],
        pad=tokenizer.pad_token_id or 0,
        seed=job.recipe.seed,
        optimizer=training.optimizer,
        lora_plus=getattr(job.tuning, "lora_plus", None) or 1.0,
        noise=training.neftune,
        recompute=job.plan["recompute"],
        cheap=job.plan["cheap"],
        seconds=math.inf if training.max_minutes is None else 60 * training.max_minutes,
        keep=training.keep_checkpoints,
        trace_every=max(1, math.ceil(updates / (training.trace + 1))) if training.trace else None,
    )
