"""Scorers: what counts as the expected answer."""

import pytest

from luthier.evaluate.scorers import exact_match, final_number


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [("drum", "drum", 1), (" drum\n", "drum", 1), ("Drum", "drum", 0), ("dru", "drum", 0), ("", "drum", 0)],
)
def test_exact_match(answer: str, expected: str, score: float) -> None:
    assert exact_match(answer, expected) == score


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("6 x 7 = 42\n#### 42", "#### 42", 1),
        ("so it is 1,234.50", "#### 1234.5", 1),
        ("#### 42 of 100", "#### 100", 1),
        ("first 42, then 7", "#### 42", 0),
        ("#### -3", "#### 3", 0),
        ("no number", "#### 3", 0),
        ("", "", 0),
        ("12. That is all.", "#### 12", 1),
    ],
)
def test_final_number(answer: str, expected: str, score: float) -> None:
    assert final_number(answer, expected) == score
