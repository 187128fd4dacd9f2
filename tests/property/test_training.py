"""Laws of the schedule, of packing and of the learning rate."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import llama, random_rows
from tiny import settings as limits

from luthier.errors import DataError
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.logprobs import batch_logprobs
from luthier.train.batches import Update, schedule
from luthier.train.optimizer import rate

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=40)


def made(lengths: list[int], own: int, share: float = 0.0, epochs: float = 1.0, **changes: int) -> list[Update]:
    values = {"batch_tokens": 100, "micro_tokens": 64, "seed": 0} | changes
    trained = [1 + length // 2 for length in lengths]
    return schedule(lengths, trained, own=own, replay_share=share, epochs=epochs, **values)


def rows_of(updates: list[Update]) -> list[int]:
    return [i for update in updates for group in update for i in group]


@given(lengths=LENGTHS, epochs=st.integers(1, 3), micro=st.integers(1, 80), seed=st.integers(0, 9))
def test_every_row_comes_once_an_epoch_within_the_budget(
    lengths: list[int], epochs: int, micro: int, seed: int
) -> None:
    updates = made(lengths, len(lengths), epochs=epochs, micro_tokens=micro, seed=seed)
    assert len(updates) % epochs == 0
    size = len(updates) // epochs
    for epoch in range(epochs):
        assert sorted(rows_of(updates[epoch * size : (epoch + 1) * size])) == list(range(len(lengths)))
    for group in (group for update in updates for group in update):
        assert group
        assert sum(lengths[i] for i in group) <= micro or len(group) == 1


@given(lengths=LENGTHS, batch=st.integers(20, 400))
def test_updates_are_as_large_as_asked_for_as_far_as_rows_allow(lengths: list[int], batch: int) -> None:
    updates = made(lengths, len(lengths), batch_tokens=batch)
    sizes = [sum(lengths[i] for i in rows_of([update])) for update in updates]
    assert len(updates) <= max(1, round(sum(lengths) / batch))
    even = sum(lengths) / max(1, round(sum(lengths) / batch))
    assert max(sizes) < even + max(lengths) + 1e-6
    done = [sum(sizes[: k + 1]) / even - (k + 1) for k in range(len(sizes) - 1)]
    assert all(ahead >= -1e-9 for ahead in done)


@given(lengths=LENGTHS, spare=st.integers(1, 30), share=st.floats(0.01, 0.7), epochs=st.integers(1, 3), data=st.data())
def test_replay_has_its_share_of_the_trained_tokens(
    lengths: list[int], spare: int, share: float, epochs: int, data: st.DataObject
) -> None:
    own = len(lengths)
    extra = data.draw(st.lists(st.integers(2, 60), min_size=spare, max_size=spare))
    everything = lengths + extra
    trained = [1 + length // 2 for length in everything]
    seen = rows_of(made(everything, own, share, epochs))
    replayed = [i for i in seen if i >= own]
    asked = epochs * share / (1 - share) * sum(trained[:own])
    given_ = sum(trained[i] for i in replayed)
    assert asked - 1e-6 <= given_ < asked + epochs * max(trained[own:])
    assert Counter(i for i in seen if i < own) == dict.fromkeys(range(own), epochs)
    times = Counter(dict.fromkeys(range(own, own + spare), 0) | Counter(replayed))
    assert max(times.values()) - min(times.values()) <= 1  # none again before all have been seen


@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_a_seed_is_an_order(lengths: list[int], seed: int) -> None:
    first = made([*lengths, 5, 6, 7], len(lengths), 0.2, 2, seed=seed)
    assert first == made([*lengths, 5, 6, 7], len(lengths), 0.2, 2, seed=seed)


def test_another_seed_and_another_epoch_are_other_orders() -> None:
    updates = made([10] * 40, 40, epochs=2)
    half = len(updates) // 2
    assert rows_of(updates[:half]) != rows_of(updates[half:])
    assert rows_of(updates) != rows_of(made([10] * 40, 40, epochs=2, seed=1))


@given(lengths=LENGTHS, epochs=st.floats(0.05, 3.0))
def test_a_part_of_an_epoch_is_a_part_of_its_updates(lengths: list[int], epochs: float) -> None:
    whole = made(lengths, len(lengths), epochs=math.ceil(epochs))
    updates = made(lengths, len(lengths), epochs=epochs)
    assert updates == whole[: len(updates)]
    an_epoch = len(whole) / math.ceil(epochs)
    assert abs(len(updates) - epochs * an_epoch) <= 1


def test_replay_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="there is no row to replay"):
        made([5, 6], 2, 0.5)


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 99))
@torch.no_grad()
def test_packed_padded_and_lone_rows_have_the_same_logprobs(lengths: list[int], seed: int) -> None:
    rows = random_rows(lengths, seed)
    model = llama(seed=seed)
    numbers = list(range(len(lengths)))
    with attention(model, NAME):
        packed, padded = (batch_logprobs(model, lay_out(rows, numbers, packed=how)) for how in (True, False))
        alone = torch.cat([batch_logprobs(model, lay_out(rows, [i], packed=False)) for i in numbers])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 0.99),
    shape=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_the_rate_rises_to_its_peak_and_never_below_a_tenth_after_it(steps: int, warmup: float, shape: str) -> None:
    chosen = limits(learning_rate=2.0, warmup=warmup, schedule=shape)
    rates = [rate(step, steps, chosen) for step in range(steps)]
    assert all(0 < r <= 2.0 for r in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(2.0)
    assert all(r >= 0.2 - 1e-9 for r in rates[top:])
