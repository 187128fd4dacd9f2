"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306), from single answers with a verdict.

Each row gets a mate: its own prompt with the answer of another row. How much likelier training has made such answers
that do not belong is z, an estimate of the KL divergence from the model before training (equation 8). Here z is the
mean over the whole update, whatever its micro-batches, and has no gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from luthier.errors import DataError
from luthier.models.batch import Batch
from luthier.models.logprobs import batch_logprobs, row_sums
from luthier.recipe import Kto as Section
from luthier.text import TokenRows
from luthier.text.render import TrainingRow
from luthier.text.rows import gather
from luthier.train.objectives.objective import Logprobs, Loss, Objective


class Kto(Objective):
    """A sum over rows, with r = log p/p0 of a row's answer; the units are rows.

    Wanted rows have the loss w (1 - sigmoid(beta (r - z))), unwanted ones u (1 - sigmoid(beta (z - r))). Rows are
    interleaved with their mates: row 2k is learned, row 2k + 1 is its mate.
    """

    group = 2
    reference = True

    def __init__(self, section: Section) -> None:
        super().__init__(section)
        self.z: torch.Tensor | float = 0.0

    def rows(self, rows: TokenRows) -> TokenRows:
        """Every row with its mate.

        Raises:
            DataError: rows without a verdict, or a single row, which can have no mate.
        """
        if rows.ratings is None or not np.all(rows.ratings):
            count = len(rows) if rows.ratings is None else int((rows.ratings == 0).sum())
            raise DataError(f"{count} rows have no verdict", where="objective.kto", fix="give each row a rating, not 0")
        if len(rows) < 2:
            raise DataError("a single row has no other to compare with", where="objective.kto", fix="add rows")
        order = np.random.default_rng(0).permutation(len(rows))
        mate = np.empty(len(rows), np.int64)
        mate[order] = np.roll(order, 1)
        own = [rows.row(i) for i in range(len(rows))]
        both = [row for i, row in enumerate(own) for row in (row, _mismatched(row, own[mate[i]]))]
        return gather(both, np.repeat(rows.ratings, 2))

    def learned(self, numbers: Sequence[int]) -> list[int]:
        """Rows without their mates."""
        return [number for number in numbers if number % 2 == 0]

    def begin(self, numbers: Sequence[Sequence[int]], logprobs: Logprobs, total: Callable[[Any], Any]) -> None:
        """Estimate z on the mates of the whole update."""
        ratios, count = [], 0
        for group in numbers:
            sums, batch = logprobs([number for number in group if number % 2])
            ratios.append((sums - batch.reference).sum())
            count += len(batch.numbers)
        both = total(torch.stack([torch.stack(ratios).sum(), torch.tensor(float(count), device=ratios[0].device)]))
        self.z = (both[0] / both[1]).clamp(min=0)

    def units(self, batch: Batch) -> int:
        """Rows."""
        return len(batch.numbers)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Summed loss; `accuracy` counts the rows that moved the way their verdict wants."""
        ratios = row_sums(batch_logprobs(model, batch), batch) - batch.reference
        sign = batch.ratings.sign()
        weight = torch.where(sign > 0, self.section.desirable, self.section.undesirable)
        loss = weight * (1 - torch.sigmoid(sign * self.section.beta * (ratios - self.z)))
        watched = {"accuracy": (sign * ratios > 0).float().sum(), "kl": self.z * torch.ones_like(loss).sum()}
        return Loss(loss.sum(), {name: value.detach() for name, value in watched.items()})


def _mismatched(row: TrainingRow, other: TrainingRow) -> TrainingRow:
    """The prompt of one row with the answer of another: what stands from its first trained token on."""
    start, begin = row.trained.index(True), other.trained.index(True)
    return TrainingRow(row.ids[:start] + other.ids[begin:], row.trained[:start] + other.trained[begin:])
