"""The numbers that the gate decides on: against formulas written out again, enumeration, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evaluate.metrics import (
    binomial_tail,
    items_needed,
    mean_per_token,
    paired,
    paired_graded,
    paired_means,
    paired_shares,
    share,
)

DRAWS = 4000
PAIRS = [(0.10, 0.05, 200), (0.02, 0.02, 200), (0.3, 0.1, 60), (0.0, 0.05, 100), (0.0, 0.03, 400), (0.08, 0.0, 100)]


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 8), (3, 10), (50, 100), (997, 1000)])
def test_wilsons_interval_is_the_formula(right: int, n: int) -> None:
    z, p = 1.959963984540054, right / n
    root = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((p + z * z / (2 * n) - root) / (1 + z * z / n), (p + z * z / (2 * n) + root) / (1 + z * z / n))
    found = share("m", [1.0] * right + [0.0] * (n - right))
    assert (found.value, found.n) == (p, n)
    assert found.low == pytest.approx(max(0.0, low), abs=1e-12)
    assert found.high == pytest.approx(min(1.0, high), abs=1e-12)


@pytest.mark.parametrize(("p", "n"), [(0.5, 40), (0.1, 60), (0.9, 200)])
def test_wilsons_interval_covers_the_true_share(p: float, n: int) -> None:
    draw = np.random.default_rng(0)
    found = {k: share("m", [1.0] * k + [0.0] * (n - k)) for k in range(n + 1)}
    covered = np.mean([found[k].low <= p <= found[k].high for k in draw.binomial(n, p, DRAWS)])
    assert 0.93 < covered < 0.98


@pytest.mark.parametrize("n", [0, 1, 2, 5, 10])
def test_the_mcnemar_tail_is_what_enumeration_gives(n: int) -> None:
    wins = [sum(outcome) for outcome in itertools.product((0, 1), repeat=n)]
    for k in range(n + 1):
        assert binomial_tail(k, n) == pytest.approx(sum(w >= k for w in wins) / len(wins), abs=1e-15)


def test_the_test_of_a_pair_counts_discordant_items_only() -> None:
    before, after = [1.0] * 500 + [0.0] * 7 + [1.0], [1.0] * 500 + [1.0] * 7 + [0.0]
    found = paired_shares(before, after)
    assert found.p_better == pytest.approx(9 / 256)
    assert found.value == pytest.approx(6 / 508)
    assert paired_shares(after, before).p_better > 0.99


@pytest.mark.parametrize(("won", "lost", "n"), PAIRS)
def test_each_bound_of_a_paired_difference_holds_at_95_per_cent(won: float, lost: float, n: int) -> None:
    draw = np.random.default_rng(1)
    true, above, below = won - lost, 0, 0
    for up, down, _ in draw.multinomial(n, [won, lost, 1 - won - lost], DRAWS):
        found = paired_shares([0.0] * up + [1.0] * (n - up), [1.0] * (n - down) + [0.0] * down)
        above, below = above + (found.low <= true), below + (found.high >= true)
    assert min(above, below) / DRAWS > 0.93  # the bound is approximate: nominal 0.95


def test_no_difference_on_few_items_rules_out_little() -> None:
    """Nothing lost on n items leaves room for about 2.7 / n, as the rule of three says for one side."""
    same = [1.0] * 100
    assert paired_shares(same, same).low == pytest.approx(-2.7055 / 102.7055, abs=1e-4)


def test_each_bound_of_a_mean_of_pairs_holds_at_95_per_cent() -> None:
    draw = np.random.default_rng(2)
    held = [paired_means([0.0] * 80, gaps).low <= 0.3 for gaps in draw.normal(0.3, 1.0, (DRAWS, 80)).tolist()]
    assert 0.935 < np.mean(held) < 0.965


def test_a_test_of_no_difference_passes_in_five_of_hundred() -> None:
    draw = np.random.default_rng(3)
    found = [paired_means([0.0] * 60, gaps).p_better < 0.05 for gaps in draw.normal(0, 1.0, (DRAWS, 60)).tolist()]
    assert 0.035 < np.mean(found) < 0.065
    shares = [
        paired_shares([0.0] * n + [1.0] * (20 - n), [1.0] * n + [0.0] * (20 - n)) for n in draw.binomial(20, 0.5, DRAWS)
    ]
    assert np.mean([d.p_better < 0.05 for d in shares]) < 0.06


def test_graded_scores_take_the_mean_and_binary_ones_the_exact_test() -> None:
    assert paired([0.0, 1.0], [1.0, 1.0]) == paired_shares([0.0, 1.0], [1.0, 1.0])
    assert paired([0.0, 0.5], [1.0, 1.0]) == paired_graded([0.0, 0.5], [1.0, 1.0])


def test_equal_pairs_differ_by_nothing() -> None:
    for found in (paired_shares([0.0, 1.0] * 9, [0.0, 1.0] * 9), paired_means([0.2, 0.7] * 9, [0.2, 0.7] * 9)):
        assert found.value == 0
        assert found.low <= 0 <= found.high
        assert found.p_better == 1


Rows = st.lists(st.tuples(st.floats(0, 50), st.integers(1, 40)), min_size=1, max_size=30)


@given(Rows)
def test_the_mean_per_token_is_weighted_by_tokens(rows: list[tuple[float, int]]) -> None:
    tokens = [loss / n for loss, n in rows for _ in range(n)]
    found = mean_per_token("loss", [loss for loss, _ in rows], [n for _, n in rows])
    assert found.value == pytest.approx(sum(tokens) / len(tokens), abs=1e-9)
    assert found.low <= found.value <= found.high


@given(Rows, st.integers(1, 29))
def test_the_mean_per_token_does_not_depend_on_how_tokens_are_grouped(rows: list[tuple[float, int]], cut: int) -> None:
    def merged(part: list[tuple[float, int]]) -> list[tuple[float, int]]:
        return [(sum(loss for loss, _ in part), sum(n for _, n in part))] if part else []

    grouped = merged(rows[:cut]) + merged(rows[cut:])
    each, whole = (mean_per_token("loss", [r[0] for r in g], [r[1] for r in g]).value for g in (rows, grouped))
    assert each == pytest.approx(whole, abs=1e-9)


def test_the_interval_of_a_mean_per_token_covers_it() -> None:
    draw = np.random.default_rng(4)
    held = 0
    for _ in range(1500):
        counts = draw.integers(1, 30, 120)
        sums = counts * draw.normal(2.0, 0.5, 120)  # rows differ, so tokens of one row go together
        found = mean_per_token("loss", sums.tolist(), counts.tolist())
        held += found.low <= 2.0 <= found.high
    assert 0.92 < held / 1500 < 0.975


@pytest.mark.parametrize(("discordant", "gap", "n"), [(0.10, 0.02, 1544), (0.25, 0.05, 617), (0.10, 0.05, 247)])
def test_items_needed_is_the_table(discordant: float, gap: float, n: int) -> None:
    assert items_needed(gap, discordant) == pytest.approx(n, rel=0.005)
    assert items_needed(0.0, discordant) == 0


def test_items_needed_gives_the_power_it_promises() -> None:
    draw, n = np.random.default_rng(5), items_needed(0.05, 0.25)
    counts = draw.multinomial(n, [0.15, 0.10, 0.75], 1500)
    seen = np.mean([binomial_tail(int(up), int(up + down)) < 0.05 for up, down, _ in counts])
    assert 0.75 < seen < 0.85
