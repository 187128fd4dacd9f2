"""How rows lie in memory, against the obvious way to lay them, and groups within a budget."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_rows

from luthier.models.batch import best_fit, lay_out

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=8)


@pytest.mark.parametrize("packed", [True, False])
@given(lengths=LENGTHS, seed=st.integers(0, 99), data=st.data())
def test_a_batch_is_what_one_would_write_by_hand(
    packed: bool, lengths: list[int], seed: int, data: st.DataObject
) -> None:
    rows = random_rows(lengths, seed)
    numbers = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, unique=True))
    longest = max(lengths[i] for i in numbers)
    ids: list[int] = []
    positions: list[int] = []
    labels: list[tuple[int, int, int]] = []
    bounds = [0]
    for place, i in enumerate(numbers):
        row, start = rows.row(i), len(ids)
        fill = 0 if packed else longest - len(row.ids)
        ids += row.ids + [9] * fill
        positions += [*range(len(row.ids)), *[0] * fill]
        labels += [(start + k - 1, row.ids[k], place) for k in range(1, len(row.ids)) if row.trained[k]]
        bounds.append(len(ids))
    batch = lay_out(rows, numbers, packed=packed, pad=9)
    assert batch.ids.flatten().tolist() == ids
    assert batch.positions.flatten().tolist() == positions
    assert batch.ids.shape == batch.positions.shape == ((1, len(ids)) if packed else (len(numbers), longest))
    assert list(zip(batch.sources.tolist(), batch.targets.tolist(), batch.rows.tolist(), strict=True)) == labels
    assert batch.documents == (bounds if packed else None)
    assert batch.tokens == sum(lengths[i] for i in numbers)
    moved = batch.to(torch.device("meta"))
    assert all(t.device.type == "meta" for t in (moved.ids, moved.positions, moved.sources, moved.targets, moved.rows))


@given(lengths=st.lists(st.integers(1, 30), max_size=40), budget=st.integers(1, 40))
def test_groups_keep_the_budget_and_every_row_once(lengths: list[int], budget: int) -> None:
    groups = best_fit(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= budget or len(group) == 1 for group in groups)
    fitting = [sum(lengths[i] for i in group) for group in groups if lengths[group[0]] <= budget]
    assert sum(2 * total <= budget for total in fitting) <= 1  # two such groups would have been one
