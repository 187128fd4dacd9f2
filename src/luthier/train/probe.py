"""One update tried before training: does it fit, and how much memory does it take?"""

import contextlib
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from luthier import events
from luthier.models.attention import NAME, attention
from luthier.models.recompute import recompute
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.train.batches import Update
from luthier.train.forward import Forward, MicroBatch
from luthier.train.loop import LoopSettings
from luthier.train.objectives import Objective
from luthier.train.optimizer import trainable
from luthier.train.parallel import Parallel


def measured(place: torch.device) -> int:
    """Peak memory of this process in bytes: allocated on a GPU, resident on a CPU; counted from `forget_peak`."""
    if place.type == "cuda":
        return torch.cuda.max_memory_allocated(place)
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def forget_peak(place: torch.device) -> None:
    """Count the peak from here on, where the system can."""
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def probe(
    model: Any,
    objective: Objective,
    rows: TokenRows,
    updates: list[Update],
    settings: LoopSettings,
    plan: Mapping[str, Any],
    log: events.Log,
    parallel: Parallel = Parallel(),  # noqa: B008 - frozen
) -> int:
    """Run forward and backward on the largest micro-batch and note the peak, with what AdamW will hold on top.

    Nothing changes: gradients are dropped, the random state is put back. Every process tries for itself.

    Returns:
        The peak in bytes, the highest of all processes.
    """
    largest = max((numbers for update in updates for numbers in update), key=lambda n: int(rows.lengths[n].sum()))
    place = next(model.parameters()).device
    forward = Forward(settings.packed, settings.pad, settings.compute, place, settings.shared)
    state = torch.get_rng_state()
    forget_peak(place)
    if settings.recompute or settings.cheap:
        recompute(model, settings.recompute, settings.cheap)
    model.train()
    with attention(causal_model(model), NAME), forward.autocast:
        batch = forward.lay(rows, objective.learned(largest), settings.noise)
        MicroBatch(model, objective)(batch).total.backward()
    peak = parallel.highest(measured(place) + _moments(model, settings))
    model.zero_grad(set_to_none=True)
    torch.set_rng_state(state)
    log.write(events.MemoryMeasured(plan["memory"]["total"], peak, probe=True))
    if peak > plan["memory_available"]:
        there = plan["memory_available"] / 1e9
        advice = "smaller training.micro_batch_tokens, or training.memory=lean, needs less"
        log.write(events.Warned(f"one update takes {peak / 1e9:.2f} GB and {there:.2f} GB are there; {advice}"))
    return peak


def _moments(model: torch.nn.Module, settings: LoopSettings) -> int:
    """Bytes of AdamW's two moments, which are made with the first update."""
    size = 2 if settings.optimizer == "adamw_8bit" else 8
    return size * sum(p.numel() for p in trainable(model).values())
