"""Answers that a model wrote, as rows to be trained, with what is known of each of their tokens.

A label is a token of an answer. Labels lie end to end in the order of the rows, as in a batch of these rows; so what is
known of labels is a flat tensor, and a batch's part of it is found by its rows' numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from luthier.models.batch import Batch
from luthier.text import TokenRows
from luthier.text.render import TrainingRow
from luthier.text.rows import gather

Tensors = Mapping[str, torch.Tensor]
ROWS, LABELS = "rows/", "labels/"


@dataclass(slots=True)
class Experience:
    """Rows and what is known of them.

    `labels` has flat tensors [labels] in float32: `old` (log-probabilities under the policy that wrote them),
    `advantages`, and by objective `reference`, `values`, `returns`, `weights`. `facts` has tensors [rows].
    """

    rows: TokenRows
    labels: dict[str, torch.Tensor] = field(default_factory=dict)
    facts: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def counts(self) -> torch.Tensor:
        """Labels of each row."""
        return torch.from_numpy(self.rows.trained_counts)

    @property
    def mask(self) -> torch.Tensor:
        """[rows, longest], True on the labels."""
        counts = self.counts
        return torch.arange(int(counts.max()))[None] < counts[:, None]

    def padded(self, name: str) -> torch.Tensor:
        """What is known of the labels as [rows, longest]."""
        mask = self.mask
        return torch.zeros(mask.shape).masked_scatter(mask, self.labels[name])

    def places(self, numbers: torch.Tensor) -> torch.Tensor:
        """Where the labels of these rows are, in the order of a batch of them."""
        counts = self.counts
        ends = counts.cumsum(0)
        spans = [torch.arange(int(ends[i] - counts[i]), int(ends[i])) for i in numbers.tolist()]
        return torch.cat(spans)

    def of(self, batch: Batch, *names: str) -> list[torch.Tensor]:
        """A batch's part [labels] of what is known of labels, on its device."""
        places = self.places(batch.numbers.cpu())
        return [self.labels[name][places].to(batch.ids.device) for name in names]

    def state(self) -> dict[str, torch.Tensor]:
        """All of it as tensors."""
        rows = {"ids": self.rows.ids, "trained": self.rows.trained, "starts": self.rows.starts}
        found = {f"{ROWS}{name}": torch.from_numpy(np.array(values)) for name, values in rows.items()}
        found |= {f"{LABELS}{name}": tensor for name, tensor in self.labels.items()}
        return found | self.facts

    @classmethod
    def read(cls, state: Tensors) -> "Experience":
        """From what `state` gave."""
        rows = {name.removeprefix(ROWS): tensor.numpy() for name, tensor in state.items() if name.startswith(ROWS)}
        labels = {name.removeprefix(LABELS): tensor for name, tensor in state.items() if name.startswith(LABELS)}
        facts = {name: tensor for name, tensor in state.items() if not name.startswith((ROWS, LABELS))}
        return cls(TokenRows(**rows), labels, facts)


def lay_answers(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> TokenRows:
    """Rows of a prompt and its answer, as it was sampled; the answer is trained, its end token too."""
    return gather(
        [
            TrainingRow([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    )
