"""Which rows go into which update. All of it follows from lengths and a seed.

The order is settled before training: `schedule` gives every update as a list of micro-batches, each a list of row
numbers. So the number of updates is known beforehand, and a resumed run skips to its place without reading a row.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from luthier.errors import DataError
from luthier.models.batch import best_fit

Update = list[list[int]]  # micro-batches, each a list of row numbers


def _epoch(order: Sequence[int], lengths: Sequence[int], batch_tokens: int, micro_tokens: int) -> Iterator[Update]:
    """Updates of about `batch_tokens` from rows in this order, equal in size as far as the rows allow."""
    total = sum(lengths[i] for i in order)
    updates = max(1, round(total / batch_tokens))
    taken, seen, made = [], 0, 0
    for position, i in enumerate(order):
        taken.append(i)
        seen += lengths[i]
        if seen >= (made + 1) * total / updates or position == len(order) - 1:
            groups = best_fit([lengths[i] for i in taken], micro_tokens)
            yield [[taken[k] for k in group] for group in groups]
            taken, made = [], made + 1


def schedule(
    lengths: Sequence[int],
    trained: Sequence[int],
    *,
    own: int,
    replay_share: float,
    epochs: float,
    batch_tokens: int,
    micro_tokens: int,
    seed: int,
) -> list[Update]:
    """Every update of the run.

    Args:
        lengths: tokens of each row; the first `own` rows are the user's, the rest is replay.
        trained: trained tokens of each row.
        own: number of the user's rows.
        replay_share: share of the trained tokens that shall come from replay rows.
        epochs: passes over the user's rows; a fraction of a pass ends early.
        batch_tokens: tokens per update.
        micro_tokens: most tokens in one forward pass.
        seed: of the order.

    Raises:
        DataError: a share of replay is asked for, and there are no replay rows.

    Returns:
        Updates in order. Replay rows are drawn without repetition until all have been seen.
    """
    if replay_share and len(lengths) == own:
        raise DataError("there is no row to replay", where="data.replay", fix="remove data.replay, or give it rows")
    updates: list[Update] = []
    replay = _endless(list(range(own, len(lengths))), seed)
    wanted = replay_share / (1 - replay_share) * sum(trained[:own])
    for epoch in range(math.ceil(epochs)):
        order = list(range(own))
        drawn = 0
        while drawn < wanted:
            i = next(replay)
            order.append(i)
            drawn += max(1, trained[i])
        np.random.default_rng((seed, epoch)).shuffle(order)
        part = list(_epoch(order, lengths, batch_tokens, micro_tokens))
        share = min(1.0, epochs - epoch)
        updates += part[: max(1, round(share * len(part)))]
    return updates


def _endless(rows: list[int], seed: int) -> Iterator[int]:
    round_ = 0
    while True:
        order = list(rows)
        np.random.default_rng((seed, 1_000_003, round_)).shuffle(order)
        yield from order
        round_ += 1
