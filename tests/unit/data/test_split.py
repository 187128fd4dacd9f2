"""The split: by what is asked, stable when rows are added, never empty."""

import pytest

from luthier.data import divide, side
from luthier.errors import DataError
from luthier.types import Example, Message


def ask(prompt: str, answer: str = "a", system: str | None = None) -> Example:
    head = [Message("system", system)] if system else []
    return Example("f", 1, (*head, Message("user", prompt), Message("assistant", answer)))


MANY = [ask(f"question {i}") for i in range(2000)]


def test_the_share_is_met_and_the_seed_matters() -> None:
    sides = divide(MANY, 0.1, 0)
    assert 140 < sides.count("validation") < 260
    assert sides == divide(MANY, 0.1, 0) != divide(MANY, 0.1, 1)


def test_adding_rows_moves_none() -> None:
    assert divide(MANY[:200], 0.1, 3) == divide(MANY, 0.1, 3)[:200] == [side(e, 0.1, 3) for e in MANY[:200]]


def test_a_larger_share_only_adds_to_validation() -> None:
    assert all(
        b == "validation" for a, b in zip(divide(MANY, 0.1, 0), divide(MANY, 0.2, 0), strict=True) if a != "train"
    )


def test_the_first_prompt_decides() -> None:
    for i in range(50):
        same = [ask(f"q {i}"), ask(f" q\n{i} ", "other"), ask(f"q {i}", system="S")]
        assert len({side(e, 0.5, 0) for e in same}) == 1
    assert side(ask("caf\u00e9"), 0.5, 1) == side(ask("cafe\u0301"), 0.5, 1)
    assert {side(Example("f", 1, text=f"text {i}"), 0.5, 0) for i in range(50)} == {"train", "validation"}


def test_neither_side_is_empty() -> None:
    few = [ask("a"), ask("b"), ask("c"), ask("b", "again")]
    held = divide(few, 1e-9, 0)
    assert held.count("validation") in (1, 2)
    assert held[1] == held[3]
    trained = divide(few, 0.899999, 0)
    assert "train" in trained
    assert "validation" in trained
    for seed in range(30):  # a share that takes all groups gives one back
        assert set(divide(few[:2], 0.89, seed)) == {"train", "validation"}


def test_one_prompt_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="one distinct prompt cannot be divided") as error:
        divide([ask("a", str(i)) for i in range(9)], 0.1, 0)
    assert error.value.fix
