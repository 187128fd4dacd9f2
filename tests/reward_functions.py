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
