"""How rows lie in memory for one forward pass: end to end (packed) or one a line (padded)."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    training (0 when not needed). `noise` is the size of NEFTune's noise on the embeddings. `beginnings` says of
    documents that go on after a part of another which places [start, end) they see before their own.
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
    beginnings: Mapping[int, tuple[int, int]] = field(default_factory=dict)

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


def lay_out(
    rows: TokenRows,
    numbers: Sequence[int],
    *,
    packed: bool,
    pad: int = 0,
    noise: float = 0.0,
    shared: bool = False,
) -> Batch:
    """The rows with these numbers as one batch: end to end when `packed`, else one a line, padded on the right.

    With `shared` the rows are pairs, packed, and what both rows of a pair begin with is laid once: the second row goes
    on after it, and sees it as the first does.
    """
    spans = [(int(rows.starts[i]), int(rows.starts[i + 1])) for i in numbers]
    lengths = np.array([end - start for start, end in spans])
    common = _common(rows, spans) if shared else [0] * len(spans)
    places, bounds, size = _places(lengths, common, packed=packed)
    ids = np.full(size, pad, dtype=np.int64)
    positions = np.zeros(size, dtype=np.int64)
    sources, targets, owners = [], [], []
    for row, ((start, end), at) in enumerate(zip(spans, places, strict=True)):
        ids[at] = rows.ids[start:end]
        positions[at] = np.arange(end - start)
        # The first token of a row has nothing before it that could predict it.
        trained = np.flatnonzero(rows.trained[start + 1 : end])
        sources.append(at[trained])
        targets.append(rows.ids[start + 1 : end][trained])
        owners.append(np.full(len(trained), row))
    shape = (1, size) if packed else (len(spans), int(lengths.max()))
    return Batch(
        ids=torch.from_numpy(ids).reshape(shape),
        positions=torch.from_numpy(positions).reshape(shape),
        documents=bounds if packed else None,
        sources=torch.from_numpy(np.concatenate(sources)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        rows=torch.from_numpy(np.concatenate(owners)),
        ends=torch.tensor([int(at[-1]) for at in places]),
        numbers=torch.tensor(list(numbers)),
        ratings=_of(rows.ratings, numbers),
        reference=_of(rows.reference, numbers),
        tokens=int(lengths.sum()),
        noise=noise,
        beginnings={i: (bounds[i - 1], bounds[i - 1] + length) for i, length in enumerate(common) if length},
    )


def _common(rows: TokenRows, spans: list[tuple[int, int]]) -> list[int]:
    """How many tokens each row shares with the one before it in its pair; a row keeps one of its own at least."""
    found = []
    for (a, a_end), (b, b_end) in zip(spans[::2], spans[1::2], strict=True):
        most = min(a_end - a, b_end - b) - 1
        differ = np.flatnonzero(rows.ids[a : a + most] != rows.ids[b : b + most])
        found += [0, int(differ[0]) if len(differ) else most]
    return found


def _places(
    lengths: npt.NDArray[np.int64], common: list[int], *, packed: bool
) -> tuple[list[npt.NDArray[np.int64]], list[int], int]:
    """Where each row's tokens go, the boundaries of what is laid end to end, and how many places there are."""
    if not packed:
        stride = int(lengths.max())
        return [np.arange(length) + row * stride for row, length in enumerate(lengths)], [], len(lengths) * stride
    places: list[npt.NDArray[np.int64]] = []
    bounds = [0]
    for length, shared in zip(lengths.tolist(), common, strict=True):
        own = np.arange(bounds[-1], bounds[-1] + length - shared)
        places.append(np.concatenate([places[-1][:shared], own]) if shared else own)
        bounds.append(bounds[-1] + length - shared)
    return places, bounds, bounds[-1]


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
