"""The one training loop. Read it from top to bottom: settings, what is checked, `train`, its steps.

The order of updates is settled beforehand (`batches.schedule`), so the loop's whole state is a step number, the
trainable weights, the optimizer and the random state; resuming from a checkpoint gives the same bits on a CPU as
never stopping. Losses and gradient norms stay on the device and are read every `read_every` updates; every number
read is checked.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from luthier import events
from luthier.errors import Interrupted, TrainingStopped
from luthier.models.attention import NAME, attention
from luthier.models.batch import Batch, best_fit, lay_out
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.train.batches import Update
from luthier.train.checkpoint import Progress, load_checkpoint, load_weights, save_checkpoint, save_weights, trainable
from luthier.train.objectives import Objective


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the loop needs to know; every value is decided by the plan or the recipe."""

    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    clip: float
    validate_every: int
    checkpoint_every: int
    patience: int
    packed: bool
    micro_tokens: int
    compute: torch.dtype
    pad: int
    seed: int
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended; the best weights are in the model."""

    steps: int
    best_step: int
    best_loss: float
    tokens: int
    seconds: float
    stopped: str | None


def rate(step: int, steps: int, settings: LoopSettings) -> float:
    """Learning rate of update `step` (from 0): a linear warm-up, then the schedule, down to a tenth of the peak."""
    rise = max(1, round(settings.warmup * steps)) if settings.warmup else 0
    if step < rise:
        return settings.learning_rate * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[settings.schedule]
    return settings.learning_rate * (0.1 + 0.9 * shape)


def make_optimizer(model: torch.nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); vectors (norms, biases) are not decayed."""
    parameters = list(trainable(model).values())
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=settings.betas, fused=True)


def train(
    model: torch.nn.Module,
    objective: Objective,
    rows: TokenRows,
    validation: TokenRows,
    updates: list[Update],
    settings: LoopSettings,
    folder: Path,
    log: events.Log,
    on_step: Callable[[events.Step], None] = lambda _: None,
) -> Outcome:
    """Train `model` in place and leave the weights with the lowest validation loss in it.

    Args:
        model: with the trainable parameters marked; in the compute format or, for full tuning, float32.
        objective: the loss.
        rows: all training rows, those of replay included.
        validation: the rows that decide which weights are best.
        updates: from `batches.schedule`.
        settings: of the loop.
        folder: holds `checkpoints/` and `best.safetensors`; what an interrupted run left there is resumed.
        log: gets steps, validations, checkpoints.
        on_step: told of each step as it is logged.

    Raises:
        TrainingStopped: the loss or the gradient is not finite, the gradient is zero, or no weight moved.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written first.
        Missing: the disk is full.
    """
    loop = _Loop(model, objective, rows, validation, updates, settings, folder, log, on_step)
    with attention(causal_model(model), NAME), _stop_signals() as stopping:
        return loop.run(stopping)


class _Loop:
    """The state of one training run between its steps."""

    def __init__(
        self,
        model: torch.nn.Module,
        objective: Objective,
        rows: TokenRows,
        validation: TokenRows,
        updates: list[Update],
        settings: LoopSettings,
        folder: Path,
        log: events.Log,
        on_step: Callable[[events.Step], None],
    ) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        self.rows, self.validation, self.updates = rows, validation, updates
        self.checkpoints, self.best = folder / "checkpoints", folder / "best.safetensors"
        self.log, self.on_step = log, on_step
        self.device = next(model.parameters()).device
        self.read_every = 1 if self.device.type == "cpu" else 10
        self.optimizer = make_optimizer(model, settings)
        self.progress = Progress()
        self.unread: list[tuple[int, torch.Tensor, torch.Tensor, float, int]] = []
        self.clock = time.monotonic()
        self.clock_tokens = 0

    def run(self, stopping: Callable[[], bool]) -> Outcome:
        """All updates from where the last checkpoint stands."""
        started = time.monotonic()
        initial = _fingerprints(self.model)
        torch.manual_seed(self.settings.seed)
        self._resume()
        self.clock, self.clock_tokens = time.monotonic(), self.progress.tokens
        while self.progress.step < len(self.updates) and not self._stale:
            self._update(self.updates[self.progress.step])
            step, last = self.progress.step, self.progress.step == len(self.updates)
            if step % self.read_every == 0 or last:
                self._read()
            if step % self.settings.validate_every == 0 or last:
                self._validate()
            if step % self.settings.checkpoint_every == 0 and not last:
                self._checkpoint()
            if stopping():
                self._checkpoint()
                self.log.write(events.Stopped(step, "interrupted"))
                raise Interrupted(
                    f"stopped after update {step}; the state is saved", fix="run the same command to go on"
                )
        stopped = None
        if self._stale:
            stopped = f"no better validation loss in {self.progress.worse} validations"
            self.log.write(events.Stopped(self.progress.step, stopped))
        if self.best.exists():
            load_weights(self.best, self.model)
        _check_moved(initial, _fingerprints(self.model), self.log)
        p = self.progress
        return Outcome(p.step, p.best_step, p.best_loss, p.tokens, time.monotonic() - started, stopped)

    @property
    def _stale(self) -> bool:
        return self.progress.worse >= self.settings.patience

    def _resume(self) -> None:
        found, problems = load_checkpoint(self.checkpoints, self.model, self.optimizer)
        for problem in problems:
            self.log.write(events.Warned(problem))
        if found is not None:
            self.progress = found
        # Written also for a start from nothing: steps that an earlier attempt logged no longer count.
        self.log.write(events.Resumed(self.progress.step))

    def _batch(self, rows: TokenRows, numbers: list[int]) -> Batch:
        return lay_out(rows, numbers, packed=self.settings.packed, pad=self.settings.pad).to(self.device)

    @property
    def _autocast(self) -> Any:
        on = self.settings.compute != torch.float32
        return torch.autocast(self.device.type, dtype=self.settings.compute, enabled=on)

    def _update(self, update: Update) -> None:
        """One optimizer step over the micro-batches of an update: one token, one weight, wherever it lies."""
        self.model.train()
        batches = [self._batch(self.rows, numbers) for numbers in update]
        units = sum(self.objective.units(batch) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            with self._autocast:
                loss = self.objective.loss(self.model, batch) / units
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(trainable(self.model).values(), self.settings.clip)
        now = rate(self.progress.step, len(self.updates), self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = now
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += sum(batch.tokens for batch in batches)
        self.unread.append((self.progress.step, total, norm, now, self.progress.tokens))

    def _read(self) -> None:
        """Fetch what the device holds of the last updates, check it, and log it."""
        seconds = max(1e-9, time.monotonic() - self.clock)
        speed = (self.progress.tokens - self.clock_tokens) / seconds
        unread, self.unread = self.unread, []
        for step, loss, norm, now, tokens in unread:
            event = events.Step(step, loss.item(), now, norm.item(), tokens, round(speed, 1))
            self.log.write(event)
            _check_finite(event)
            self.on_step(event)
        self.clock, self.clock_tokens = time.monotonic(), self.progress.tokens

    def _validate(self) -> None:
        """Validation loss; the weights are kept when it is the lowest so far."""
        loss = self.validation_loss()
        if not math.isfinite(loss):
            raise _not_finite("validation loss", self.progress.step)
        best = loss < self.progress.best_loss
        if best:
            self.progress.best_loss, self.progress.best_step, self.progress.worse = loss, self.progress.step, 0
            aside = self.best.with_suffix(".writing")
            save_weights(aside, self.model)
            aside.replace(self.best)
        else:
            self.progress.worse += 1
        self.log.write(events.Validated(self.progress.step, loss, best))
        self.clock = time.monotonic()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss per unit over all validation rows, in nats per trained token for SFT."""
        return mean_loss(self.model, self.objective, self.validation, self.settings, self.device)

    def _checkpoint(self) -> None:
        self._read()
        place = save_checkpoint(self.checkpoints, self.model, self.optimizer, self.progress)
        self.log.write(events.Checkpointed(self.progress.step, place.name))
        self.clock = time.monotonic()


@torch.no_grad()
def mean_loss(
    model: torch.nn.Module, objective: Objective, rows: TokenRows, settings: LoopSettings, device: torch.device
) -> float:
    """The objective's mean over rows: summed losses divided by summed units, whatever the batches."""
    model.eval()
    total, units = 0.0, 0
    for numbers in best_fit(rows.lengths.tolist(), settings.micro_tokens):
        batch = lay_out(rows, numbers, packed=settings.packed, pad=settings.pad).to(device)
        with torch.autocast(device.type, dtype=settings.compute, enabled=settings.compute != torch.float32):
            total += objective.loss(model, batch).item()
        units += objective.units(batch)
    return total / units


def _not_finite(what: str, step: int) -> TrainingStopped:
    return TrainingStopped(
        f"the {what} is not finite",
        where=f"update {step}",
        fix="lower training.learning_rate (try a third), or look at the rows with luthier inspect",
    )


def _check_finite(event: events.Step) -> None:
    if not math.isfinite(event.loss):
        raise _not_finite("loss", event.step)
    if not math.isfinite(event.gradient_norm):
        raise _not_finite("gradient", event.step)
    if event.gradient_norm == 0:
        raise TrainingStopped(
            "the gradient is zero: nothing would be learned",
            where=f"update {event.step}",
            fix="check tuning.target_modules; run luthier doctor for known faults of installed packages",
        )


def _fingerprints(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Two sums per trainable tensor, which change when the tensor moves."""
    return {
        name: (p.detach().double().sum().item(), p.detach().double().square().sum().item())
        for name, p in trainable(model).items()
    }


def _check_moved(
    before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]], log: events.Log
) -> None:
    still = [name for name in before if before[name] == after[name]]
    if len(still) == len(before):
        raise TrainingStopped(
            "no trained weight moved", where="the end of training", fix="raise training.learning_rate or the epochs"
        )
    if still:
        log.write(events.Warned(f"{len(still)} of {len(before)} trained tensors did not move, the first is {still[0]}"))


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask the loop to stop after the current update; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are not ours to take
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, action in before.items():
            signal.signal(number, action)
