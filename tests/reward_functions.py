"""Rewards as a user's file has them."""

import time

from luthier.evaluate.items import Item


def vowels(answer: str, item: Item) -> float:
    """The share of vowels."""
    return sum(sign in "aeiou" for sign in answer) / max(1, len(answer))


def raises(answer: str, item: Item) -> float:
    """Fails for one prompt."""
    if item.prompt[-1].content == "3?":
        raise KeyError("price")
    return 1.0


def hangs(answer: str, item: Item) -> float:
    """Never ends for one prompt."""
    if item.prompt[-1].content == "3?":
        time.sleep(60)
    return 1.0


def nothing(answer: str, item: Item) -> float:
    """Says what is no number."""
    return float("nan")


def consonants(answer: str, item: Item) -> float:
    """1 less the share of vowels."""
    return 1 - vowels(answer, item)


def silent(answer: str, item: Item) -> None:
    """Forgets to say anything."""


def text(answer: str, item: Item) -> str:
    """Says a number as text."""
    return "0.5"


def leaves(answer: str, item: Item) -> float:
    """Ends the program."""
    raise SystemExit(3)


def now_and_then(answer: str, item: Item) -> float:
    """Raises for every third prompt, saying each time something else."""
    if int(item.prompt[-1].content[:-1]) % 3 == 0:
        raise ValueError(f"no {item.prompt[-1].content}")
    return 1.0


def never_ends(answer: str, item: Item) -> float:
    """Spins for much longer than anybody waits."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
    return 1.0


def alone(answer: str) -> float:
    """Takes no item."""
    return 1.0


async def later(answer: str, item: Item) -> float:
    """Would have to be awaited."""
    return 1.0


number = 3
