"""The one training loop. Read it from top to bottom: settings, what is checked, `train`, its steps.

Rows come from a `source`, settled beforehand or sampled on the way. The loop's whole state is a step number, the
trainable weights, the optimizer, the random state and what the source says is its own; resuming from a checkpoint
gives the same bits on a CPU as never stopping. Losses and gradient norms stay on the device and are read every
`read_every` updates; every number read is checked.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from luthier import events
from luthier.errors import Interrupted, TrainingStopped
from luthier.models.attention import NAME, attention
from luthier.models.batch import Batch, best_fit
from luthier.models.recompute import recompute
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.train.batches import Update
from luthier.train.checkpoint import Progress, load_checkpoint, load_weights, save_checkpoint, save_weights
from luthier.train.forward import Forward, MicroBatch, spread, together
from luthier.train.objectives import Objective
from luthier.train.optimizer import make_optimizer, rate, trainable
from luthier.train.parallel import Parallel, whole
from luthier.train.source import Source

TRACE = "trace"
"""The folder of the models on the way."""
SMOOTHING = 0.9
"""Weight of the past in the smoothed loss that is shown."""


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
    optimizer: str = "adamw"
    lora_plus: float = 1.0
    """How many times faster LoRA's B learns."""
    noise: float = 0.0
    """NEFTune's alpha."""
    shared: bool = False
    """Compute what both rows of a pair begin with once."""
    recompute: int = 0
    """How many blocks drop their activations in the forward pass and compute them again in the backward pass."""
    cheap: int = 0
    """How many after them do so with their cheap parts: all but attention and wide products."""
    seconds: float = math.inf
    """Stop after this time in training, those of earlier attempts included."""
    keep: int = 2
    """Newest checkpoints kept."""
    trace_every: int | None = None
    """Updates between two models on the way that are kept."""
    read_every: int | None = None
    """Updates between two readings of what the device holds; 1 on a CPU and 10 on a GPU when None."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended; the best weights are in the model."""

    steps: int
    best_step: int
    best_loss: float
    tokens: int
    seconds: float
    stopped: str | None


def train(
    model: torch.nn.Module,
    objective: Objective,
    source: Source,
    settings: LoopSettings,
    folder: Path,
    log: events.Log,
    on_step: Callable[[events.Step], None] = lambda _: None,
    parallel: Parallel = Parallel(),  # noqa: B008 - frozen
) -> Outcome:
    """Train `model` in place and leave the weights with the lowest validation loss in it.

    Args:
        model: with the trainable parameters marked; in the compute format or, for full tuning, float32.
        objective: the loss.
        source: of the rows of every update, and of the loss that decides which weights are best.
        settings: of the loop.
        folder: holds `checkpoints/` and `best.safetensors`; what an interrupted run left there is resumed.
        log: gets steps, validations, checkpoints.
        on_step: told of each step as it is logged.
        parallel: this process among others.

    Raises:
        TrainingStopped: the loss or the gradient is not finite, the gradient is zero, or no weight moved.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written first.
        Missing: the disk is full.
    """
    if settings.recompute or settings.cheap:
        recompute(model, settings.recompute, settings.cheap)
    loop = _Loop(model, objective, source, settings, folder, log, on_step, parallel)
    with attention(causal_model(model), NAME), _stop_signals() as stopping:
        return loop.run(stopping)


class _Loop:
    """The state of one training run between its steps."""

    def __init__(
        self,
        model: torch.nn.Module,
        objective: Objective,
        source: Source,
        settings: LoopSettings,
        folder: Path,
        log: events.Log,
        on_step: Callable[[events.Step], None],
        parallel: Parallel,
    ) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        self.source = source
        self.checkpoints, self.best = folder / "checkpoints", folder / "best.safetensors"
        self.trace = folder / TRACE
        self.log, self.on_step, self.parallel = log, on_step, parallel
        self.device = next(model.parameters()).device
        self.forward = Forward(settings.packed, settings.pad, settings.compute, self.device, settings.shared)
        self.step = parallel.wrap(MicroBatch(model, objective), model, settings.compute)
        self.read_every = settings.read_every or (1 if self.device.type == "cpu" else 10)
        self.optimizer = make_optimizer(model, settings)
        self.progress = Progress()
        self.unread: list[tuple[int, torch.Tensor, torch.Tensor, float, int, dict[str, torch.Tensor]]] = []
        self.clock = time.monotonic()
        self.clock_tokens = 0

    def run(self, stopping: Callable[[], bool]) -> Outcome:
        """All updates from where the last checkpoint stands."""
        initial = _fingerprints(self.model)
        torch.manual_seed(self.settings.seed + self.parallel.rank)
        self._resume()
        started = time.monotonic() - self.progress.seconds
        self.clock, self.clock_tokens = time.monotonic(), self.progress.tokens
        late = False
        if self.source.fresh and not self.progress.step:
            self._validate()
        while self.progress.step < len(self.source) and not (stopped := self._why_stop(late=late)):
            self._update(*self.source.update(self.progress.step))
            step, last = self.progress.step, self.progress.step == len(self.source)
            self.progress.seconds = time.monotonic() - started
            late = self._any(self.progress.seconds > self.settings.seconds)
            if step % self.read_every == 0 or last:
                self._read()
            if step % self.settings.validate_every == 0 or last or late or self.source.due(step):
                self._validate()
            if self.settings.trace_every and step % self.settings.trace_every == 0 and not last:
                self.trace.mkdir(exist_ok=True)
                save_weights(self.trace / f"step-{step:08d}.safetensors", self.model, self.parallel)
            asked = self._any(stopping())
            if (step % self.settings.checkpoint_every == 0 and not last) or asked:
                self._checkpoint()
            if asked:
                self.log.write(events.Stopped(step, "interrupted"))
                raise Interrupted(
                    f"stopped after update {step}; the state is saved", fix="run the same command to go on"
                )
        if stopped := self._why_stop(late=late):
            self.log.write(events.Stopped(self.progress.step, stopped))
        self.parallel.wait()
        if self.best.exists():
            load_weights(self.best, self.model)
        p = self.progress
        if p.best_step or not self.source.fresh:
            _check_moved(initial, _fingerprints(self.model), self.log)
        return Outcome(p.step, p.best_step, p.best_loss, p.tokens, time.monotonic() - started, stopped)

    def _why_stop(self, *, late: bool) -> str | None:
        if self.progress.worse >= self.settings.patience:
            return f"no better validation loss in {self.progress.worse} validations"
        if late and self.progress.step < len(self.source):
            return f"the time of {self.settings.seconds:.0f} s is up"
        return self.source.why_stop()

    def _any(self, flag: bool) -> bool:
        """The flag as raised by any process, so that all do the same."""
        if self.parallel.world == 1:
            return flag
        return bool(self.parallel.total(torch.tensor(float(flag), device=self.device)).item())

    def _resume(self) -> None:
        found, problems = load_checkpoint(self.checkpoints, self.model, self.optimizer, self.parallel, self.source)
        for problem in problems:
            self.log.write(events.Warned(problem))
        if found is not None:
            self.progress = found
        # Written also for a start from nothing: steps that an earlier attempt logged no longer count.
        self.log.write(events.Resumed(self.progress.step))

    def _update(self, rows: TokenRows, update: Update) -> None:
        """One optimizer step over the micro-batches of an update: one unit, one weight, wherever it lies."""
        self.model.train()
        mine = self.parallel.share(update)
        self._begin(rows, [numbers for numbers, _ in mine])
        self.model.train()
        learned = [(self.objective.learned(numbers), weight) for numbers, weight in mine]
        batches = [(self.forward.lay(rows, numbers, self.settings.noise), weight) for numbers, weight in learned]
        counts = [sum(weight * self.objective.units(batch) for batch, weight in batches)]
        counts.append(sum(weight * batch.tokens for batch, weight in batches))
        units, tokens = self.parallel.total(torch.tensor(counts, dtype=torch.float64, device=self.device)).tolist()
        total = torch.zeros((), device=self.device)
        watched: dict[str, torch.Tensor] = {}
        for number, (batch, weight) in enumerate(batches, 1):
            with self._synced(last=number == len(batches)), self.forward.autocast:
                loss = self.step(batch)
                # Both wrappers average over processes, and the divisor is that of all of them: hence the factor.
                (loss.total * (weight * self.parallel.world / units)).backward()
            total += loss.total.detach() * (weight / units)
            for name, value in loss.metrics.items():
                watched[name] = watched.get(name, 0) + value * (weight / units)
        norm = whole(torch.nn.utils.clip_grad_norm_(trainable(self.model).values(), self.settings.clip))
        now = rate(self.progress.step, len(self.source), self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = now * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += int(tokens)
        self.unread.append((self.progress.step, total, norm, now, self.progress.tokens, watched))

    def _synced(self, *, last: bool) -> Any:
        """DDP sums gradients over processes once an update, with the last micro-batch."""
        return nullcontext() if last or not isinstance(self.step, DistributedDataParallel) else self.step.no_sync()

    @torch.no_grad()
    def _begin(self, rows: TokenRows, groups: list[list[int]]) -> None:
        """Let the objective look at the whole update first, with dropout off."""

        def sums(numbers: list[int]) -> tuple[torch.Tensor, Batch]:
            self.model.eval()
            batch = self.forward.lay(rows, numbers)
            with self.forward.autocast:
                return self.step(batch, sums=True), batch

        self.objective.begin(groups, sums, self.parallel.total)

    def _read(self) -> None:
        """Fetch what the device holds of the last updates, check it, and log it."""
        seconds = max(1e-9, time.monotonic() - self.clock)
        speed = (self.progress.tokens - self.clock_tokens) / seconds
        unread, self.unread = self.unread, []
        for step, loss, norm, now, tokens, watched in unread:
            names = list(watched)
            values = self.parallel.total(torch.stack([loss, *(watched[name].float() for name in names)])).tolist()
            self.progress.smooth = SMOOTHING * self.progress.smooth + (1 - SMOOTHING) * values[0]
            smooth = self.progress.smooth / (1 - SMOOTHING**step)  # as if all steps before the first had been like it
            metrics = dict(zip(names, values[1:], strict=True))
            event = events.Step(step, values[0], now, norm.item(), tokens, round(speed, 1), smooth, metrics)
            self.log.write(event)
            _check_finite(event, idle=self.source.fresh)
            self.on_step(event)
        self.clock, self.clock_tokens = time.monotonic(), self.progress.tokens

    def _validate(self) -> None:
        """Validation loss; the weights are kept when it is the lowest so far."""
        loss, metrics = self.source.validate(self.progress.step, self.mean)
        if not math.isfinite(loss):
            raise _not_finite("validation loss", self.progress.step)
        best = loss < self.progress.best_loss
        if best:
            self.progress.best_loss, self.progress.best_step, self.progress.worse = loss, self.progress.step, 0
            save_weights(self.best, self.model, self.parallel)
        else:
            self.progress.worse += 1
        self.log.write(events.Validated(self.progress.step, loss, best, metrics))
        self.clock = time.monotonic()

    @torch.no_grad()
    def mean(self, rows: TokenRows) -> tuple[float, dict[str, float]]:
        """Mean loss per unit over rows, in nats per trained token for SFT, and the means of the rest."""
        return mean_loss(self.step, self.objective, rows, self.forward, self.settings.micro_tokens, self.parallel)

    def _checkpoint(self) -> None:
        self._read()
        place = save_checkpoint(
            self.checkpoints,
            self.model,
            self.optimizer,
            self.progress,
            self.parallel,
            self.settings.keep,
            self.source.state(),
        )
        self.log.write(events.Checkpointed(self.progress.step, place.name))
        self.clock = time.monotonic()


@torch.no_grad()
def mean_loss(
    step: Any,
    objective: Objective,
    rows: TokenRows,
    forward: Forward,
    micro_tokens: int,
    parallel: Parallel = Parallel(),  # noqa: B008 - frozen
) -> tuple[float, dict[str, float]]:
    """The objective's mean over rows: summed losses divided by summed units, whatever the batches."""
    step.eval()

    def sums(numbers: list[int]) -> tuple[torch.Tensor, Batch]:
        batch = forward.lay(rows, numbers)
        with forward.autocast:
            return step(batch, sums=True), batch

    fitted = best_fit(together(rows.lengths.tolist(), objective.group), micro_tokens)
    groups = parallel.share([spread(numbers, objective.group) for numbers in fitted])
    objective.begin([numbers for numbers, _ in groups], sums, parallel.total)
    parts: dict[str, float] = {"loss": 0.0, "units": 0.0}
    for numbers, weight in groups:
        batch = forward.lay(rows, objective.learned(numbers))
        with forward.autocast:
            loss = step(batch)
        values = {"loss": loss.total.item(), "units": objective.units(batch)}
        for name, value in (values | {name: value.item() for name, value in loss.metrics.items()}).items():
            parts[name] = parts.get(name, 0.0) + weight * value
    found = parallel.total(torch.tensor(list(parts.values()), dtype=torch.float64, device=forward.device)).tolist()
    means = dict(zip(parts, (value / found[1] for value in found), strict=True))
    del means["units"]
    return means.pop("loss"), means


def _not_finite(what: str, step: int) -> TrainingStopped:
    return TrainingStopped(
        f"the {what} is not finite",
        where=f"update {step}",
        fix="lower training.learning_rate (try a third), or look at the rows with luthier inspect",
    )


def _check_finite(event: events.Step, *, idle: bool) -> None:
    """`idle`: there may be nothing to learn from an update, as where all answers to a prompt are equally good."""
    if not math.isfinite(event.loss):
        raise _not_finite("loss", event.step)
    if not math.isfinite(event.gradient_norm):
        raise _not_finite("gradient", event.step)
    if event.gradient_norm == 0 and not idle:
        raise TrainingStopped(
            "the gradient is zero: nothing would be learned",
            where=f"update {event.step}",
            fix="check tuning.target_modules; run luthier doctor for known faults of installed packages",
        )


def _fingerprints(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Two sums per trainable tensor, which change when the tensor moves."""
    found = {}
    for name, parameter in trainable(model).items():
        content = whole(parameter.detach()).double()
        found[name] = (content.sum().item(), content.square().sum().item())
    return found


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
