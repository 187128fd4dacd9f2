"""How rows lie in memory for one forward pass: end to end (packed) or one a line (padded)."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from luthier.text import TokenRows


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows laid out for one forward pass, with what they are to predict.

    `ids` and `positions` are [1, tokens] when packed (`documents` holds the boundaries) and [rows, longest] when
    padded on the right (`documents` is None). `sources` [labels] are the flat places whose hidden state predicts the
    trained tokens `targets` [labels]; `rows` [labels] says which row of the batch each label belongs to. `ends` [rows]
    are the flat places of each row's last token, `numbers` [rows] the rows' numbers in the dataset, `ratings` [rows]
    what the data says of them (0 when nothing), and `reference` [rows] the log-probabilities of the model before
    training (0 when not needed). `noise` is the size of NEFTune's noise on the embeddings.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    documents: list[int] | None
    sources: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    ends: torch.Tensor
    numbers: torch.Tensor
    ratings: torch.Tensor
    reference: torch.Tensor
    tokens: int
    noise: float = 0.0

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        fields = ((name, getattr(self, name)) for name in self.__slots__)
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in fields if isinstance(v, torch.Tensor)}
        return replace(self, **moved)

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of the row that each place belongs to, in the shape of `ids`; padding counts as a row of one."""
        if self.documents is not None:
            sizes = torch.tensor(np.diff(self.documents), device=self.ids.device)
            return sizes.repeat_interleave(sizes)[None]
        stride = self.ids.shape[1]
        sizes = self.ends - torch.arange(len(self.ids), device=self.ids.device) * stride + 1
        return sizes[:, None].expand_as(self.ids)


def lay_out(rows: TokenRows, numbers: Sequence[int], *, packed: bool, pad: int = 0, noise: float = 0.0) -> Batch:
    """The rows with these numbers as one batch: end to end when `packed`, else one a line, padded on the right."""
    spans = [(int(rows.starts[i]), int(rows.starts[i + 1])) for i in numbers]
    lengths = np.array([end - start for start, end in spans])
    stride = 0 if packed else int(lengths.max())
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if packed else np.arange(len(spans)) * stride
    size = int(lengths.sum()) if packed else len(spans) * stride
    ids = np.full(size, pad, dtype=np.int64)
    positions = np.zeros(size, dtype=np.int64)
    sources, targets, owners = [], [], []
    for row, ((start, end), offset) in enumerate(zip(spans, offsets, strict=True)):
        length = end - start
        ids[offset : offset + length] = rows.ids[start:end]
        positions[offset : offset + length] = np.arange(length)
        # The first token of a row has nothing before it that could predict it.
        trained = np.flatnonzero(rows.trained[start + 1 : end])
        sources.append(trained + offset)
        targets.append(rows.ids[start + 1 : end][trained])
        owners.append(np.full(len(trained), row))
    shape = (1, size) if packed else (len(spans), stride)
    return Batch(
        ids=torch.from_numpy(ids).reshape(shape),
        positions=torch.from_numpy(positions).reshape(shape),
        documents=[*(int(o) for o in offsets), size] if packed else None,
        sources=torch.from_numpy(np.concatenate(sources)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        rows=torch.from_numpy(np.concatenate(owners)),
        ends=torch.from_numpy(offsets + lengths - 1),
        numbers=torch.tensor(list(numbers)),
        ratings=_of(rows.ratings, numbers),
        reference=_of(rows.reference, numbers),
        tokens=int(lengths.sum()),
        noise=noise,
    )


def _of(values: npt.NDArray[np.float32] | None, numbers: Sequence[int]) -> torch.Tensor:
    return torch.zeros(len(numbers)) if values is None else torch.from_numpy(values[list(numbers)])


def best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that each group's lengths add up to at most `budget`, in few groups (best-fit decreasing).

    A length above the budget gets a group of its own. Each item goes where it leaves the least room.
    """
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, group), sorted
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect.bisect_left(room, (lengths[i], -1))
        if at < len(room):
            free, group = room.pop(at)
            groups[group].append(i)
        else:
            free, group = budget, len(groups)
            groups.append([i])
        if free > lengths[i]:
            bisect.insort(room, (free - lengths[i], group))
    return groups
