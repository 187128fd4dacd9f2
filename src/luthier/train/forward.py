"""One forward pass over rows: how they are laid out, in which number format, and what the reference says of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from luthier.artifact import disk_error
from luthier.models.attention import NAME, attention
from luthier.models.batch import Batch, best_fit, lay_out
from luthier.models.logprobs import batch_logprobs, row_sums
from luthier.models.tuning import causal_model, untuned
from luthier.text import TokenRows
from luthier.train.objectives import Loss, Objective
from luthier.train.parallel import Parallel


@dataclass(frozen=True, slots=True)
class Forward:
    """How rows go through the model."""

    packed: bool
    pad: int
    compute: torch.dtype
    device: torch.device
    shared: bool = False
    """Whether rows are pairs whose common beginning is computed once."""

    def lay(self, rows: TokenRows, numbers: Sequence[int], noise: float = 0.0) -> Batch:
        """Rows as a batch on the device."""
        return lay_out(rows, numbers, packed=self.packed, pad=self.pad, noise=noise, shared=self.shared).to(self.device)

    @property
    def autocast(self) -> Any:
        """The number format of the pass."""
        return torch.autocast(self.device.type, dtype=self.compute, enabled=self.compute != torch.float32)


class MicroBatch(torch.nn.Module):
    """The loss of one micro-batch as a module's forward: what DDP and FSDP wrap."""

    def __init__(self, model: torch.nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, *, sums: bool = False) -> Loss | torch.Tensor:
        """The loss; with `sums`, the log-probability [rows] of each row's trained tokens."""
        if sums:
            return row_sums(batch_logprobs(self.model, batch), batch)
        return self.objective.loss(self.model, batch)


def together(lengths: Sequence[int], group: int) -> list[int]:
    """Lengths of neighbouring rows that belong together, summed."""
    return [sum(lengths[i : i + group]) for i in range(0, len(lengths), group)]


def spread(numbers: Sequence[int], group: int) -> list[int]:
    """The row numbers of groups."""
    return [group * number + i for number in numbers for i in range(group)]


@torch.no_grad()
def add_reference(
    model: Any, rows: TokenRows, forward: Forward, micro_tokens: int, parallel: Parallel, cache: Path, group: int = 1
) -> TokenRows:
    """The rows with the log-probabilities of the model before training, computed once and kept in `cache`.

    For adapters that is the same model with the adapter off, so there is no second copy. Has to be asked before the
    first update. `group` neighbouring rows go through the model in one pass.

    Raises:
        Missing: the disk is full.
    """
    if cache.exists():
        try:
            found = load_file(cache)["reference"]
            if len(found) == len(rows):
                return replace(rows, reference=found)
        except (OSError, SafetensorError, KeyError):
            cache.unlink(missing_ok=True)  # half written when an earlier attempt died
    model.eval()
    sums = torch.zeros(len(rows), dtype=torch.float32, device=forward.device)
    with untuned(model), attention(causal_model(model), NAME):
        for items, weight in parallel.share(best_fit(together(rows.lengths.tolist(), group), micro_tokens)):
            batch = forward.lay(rows, spread(items, group))
            with forward.autocast:
                found = row_sums(batch_logprobs(model, batch), batch)
            sums[batch.numbers] += weight * found
    reference: np.ndarray[Any, np.dtype[np.float32]] = parallel.total(sums).cpu().numpy()
    if parallel.first:
        try:
            save_file({"reference": reference}, cache)
        except (OSError, SafetensorError) as error:
            cache.unlink(missing_ok=True)
            raise disk_error(cache, error if isinstance(error, OSError) else OSError(str(error))) from error
    return replace(rows, reference=reference)
