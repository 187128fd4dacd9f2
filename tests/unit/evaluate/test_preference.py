"""Votes and what they say: blind, fair to both sides, with intervals that hold."""

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

from luthier.errors import DataError, RecipeError
from luthier.evaluate.preference import (
    Ballot,
    kappa,
    length_controlled,
    logistic,
    ranking,
    strengths,
    votes_needed,
    win_rate,
)
from luthier.evaluate.votes import Votes


def filled(path: Path, pairs: int = 60) -> Votes:
    votes = Votes(path / "votes.sqlite")
    for i in range(pairs):
        votes.add(f"prompt {i}", "old", f"short {i}", "new", f"a longer answer {i}")
    return votes


def test_a_rater_sees_each_pair_once_some_twice_and_no_names(tmp_path: Path) -> None:
    votes = filled(tmp_path)
    seen = []
    while (shown := votes.next("ada")) is not None:
        assert "old" not in (shown.left, shown.right)
        assert {shown.left.split()[0], shown.right.split()[0]} == {"short", "a"}
        seen.append(shown)
        votes.vote(shown, "ada", "left" if shown.left.startswith("a longer") else "right")
    again = [s for s in seen if s.turn == 1]
    assert len(seen) == 60 + len(again)
    assert 1 <= len(again) <= 15
    assert 18 <= sum(s.swapped for s in seen[:60]) <= 42, "sides are drawn"
    assert win_rate(votes.ballots(), "new").value == 1.0
    facts = votes.summary()
    assert (facts["votes"], facts["self_agreement"]) == (60, 1.0)
    assert facts["left"] + facts["right"] == 60
    assert [s.pair for s in seen[:60]] != [s.pair for s in iter_pairs(votes, "bob")], "each rater has an order"


def iter_pairs(votes: Votes, rater: str) -> list[object]:
    found = []
    while (shown := votes.next(rater)) is not None and len(found) < 60:
        found.append(shown)
        votes.vote(shown, rater, "tie")
    return found


def test_ties_and_both_bad_are_half_a_win_and_counted(tmp_path: Path) -> None:
    votes = filled(tmp_path, 8)
    for k in range(8):
        shown = votes.next("ada")
        assert shown is not None
        votes.vote(shown, "ada", "both bad" if k < 3 else "tie")
    facts = votes.summary()
    assert (facts["both_bad"], facts["ties"]) == (3, 5)
    assert win_rate(votes.ballots(), "new").value == 0.5
    with pytest.raises(RecipeError, match="'maybe' is no vote"):
        votes.vote(shown, "ada", "maybe")


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    path.write_text("no database, but long enough to look like something else entirely" * 20)
    with pytest.raises(DataError, match="not a file of votes"):
        Votes(path)


def ballots(true: dict[str, float], prompts: int, raters: int, seed: int, spread: float = 0.0) -> list[Ballot]:
    draw, names = np.random.default_rng(seed), list(true)
    found = []
    for p in range(prompts):
        first, second = draw.choice(names, 2, replace=False)
        effect = draw.normal(0, spread)
        for r in range(raters):
            chance = 1 / (1 + math.exp(-(true[first] - true[second] + effect)))
            found.append(Ballot(first, second, first if draw.random() < chance else second, str(p), str(r)))
    return found


def test_strengths_are_those_of_a_logistic_regression() -> None:
    found = strengths(ballots({"a": 0.0, "b": 0.8, "c": -0.5}, 400, 2, 1), "a")
    rows = ballots({"a": 0.0, "b": 0.8, "c": -0.5}, 400, 2, 1)
    design = [[(b.first == n) - (b.second == n) for n in "bc"] for b in rows]
    theirs = LogisticRegression(C=1e6, fit_intercept=False).fit(design, [b.winner == b.first for b in rows])
    assert found["b"] == pytest.approx(theirs.coef_[0][0], abs=5e-3)
    assert found["c"] == pytest.approx(theirs.coef_[0][1], abs=5e-3)
    assert [m.name for m in ranking(rows, "a", resamples=50)] == ["b", "a", "c"]


def test_intervals_of_win_rates_hold_when_votes_on_a_prompt_go_together() -> None:
    held = 0
    for seed in range(200):
        rows = ballots({"a": 0.0, "b": 0.0}, 50, 5, seed, spread=1.5)
        rate = win_rate(rows, "a")
        held += rate.low <= 0.5 <= rate.high
    assert held >= 180


def test_length_is_controlled() -> None:
    draw = np.random.default_rng(3)
    rows = []
    for i in range(800):
        longer = draw.normal(0.8, 1.0)  # b writes more, and raters like more
        wins = draw.random() < 1 / (1 + math.exp(-1.5 * longer))
        rows.append(Ballot("b", "a", "b" if wins else "a", str(i), longer=longer))
    assert win_rate(rows, "b").value > 0.65
    assert length_controlled(rows, "b") == pytest.approx(0.5, abs=0.07)
    assert length_controlled(rows, "a") == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(("rate", "n"), [(0.55, 783), (0.60, 194), (0.65, 85), (0.70, 47)])
def test_votes_needed_is_the_published_table(rate: float, n: int) -> None:
    assert votes_needed(rate) == pytest.approx(n, abs=2)
    assert votes_needed(1 - rate) == votes_needed(rate)


def test_kappa_is_sklearns() -> None:
    draw = np.random.default_rng(0)
    one = draw.choice(["a", "b", "tie"], 200).tolist()
    other = [a if draw.random() < 0.6 else "b" for a in one]
    assert kappa(one, other) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)


def test_newton_stays_finite_where_one_side_wins_all() -> None:
    found = logistic(np.ones((30, 1)), np.ones(30))
    assert np.isfinite(found).all()
    assert found[0] > 3
