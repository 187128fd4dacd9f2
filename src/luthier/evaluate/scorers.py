"""Scorers: how good an answer is, between 0 and 1. Adding one is a function and a line in `SCORERS`."""

import re
from collections.abc import Callable

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def exact_match(answer: str, expected: str) -> float:
    """1 when the answer is the expected one, but for white space at both ends."""
    return float(answer.strip() == expected.strip())


def final_number(answer: str, expected: str) -> float:
    """1 when the last number, after `####` where there is one, is the expected one; so grade-school-math is scored."""
    wanted, found = _last_number(expected), _last_number(answer)
    return float(wanted is not None and wanted == found)


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(text.rpartition("####")[2])
    return float(numbers[-1].replace(",", "")) if numbers else None


SCORERS: dict[str, Callable[[str, str], float]] = {"exact_match": exact_match, "final_number": final_number}
