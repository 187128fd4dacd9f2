"""Training or validation, by a hash of what is asked: adding rows moves no other one, equal prompts stay together."""

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Literal

from luthier.errors import DataError
from luthier.types import Example

Side = Literal["train", "validation"]


def normalise(text: str) -> str:
    """The text in Unicode's composed form (NFC) with each run of white space as one blank."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def content_group(example: Example) -> str:
    """What must not stand on both sides: the first user turn, or the whole plain text."""
    if example.text is not None:
        return normalise(example.text)
    return normalise(next((message.content for message in example.messages if message.role == "user"), ""))


def position(example: Example, seed: int) -> float:
    """Where the example's group falls between 0 and 1, evenly spread over groups."""
    mark = hashlib.blake2b(f"{seed}\n{content_group(example)}".encode(), digest_size=8).digest()
    return int.from_bytes(mark, "big") / 2**64


def side(example: Example, share: float, seed: int) -> Side:
    """The side of one example, whatever the others are.

    Args:
        example: a conversation or plain text.
        share: the share of groups that go to validation.
        seed: another seed gives another division.
    """
    return "validation" if position(example, seed) < share else "train"


def divide(examples: Sequence[Example], share: float, seed: int) -> list[Side]:
    """The side of each example, with neither side empty.

    Few groups may all fall on one side; then the outermost one is moved: the lowest to validation, or the highest to
    training.

    Raises:
        DataError: all examples ask the same thing, so there is nothing to divide.
    """
    positions = [position(example, seed) for example in examples]
    lowest, highest = min(positions), max(positions)
    if lowest == highest:
        raise DataError(
            f"one distinct prompt cannot be divided into training and validation: all {len(examples)} kept rows "
            "begin with the same user turn",
            fix="add rows with other prompts",
        )
    if lowest >= share:  # nothing would be held out
        return ["validation" if p == lowest else "train" for p in positions]
    bound = min(share, highest)  # something must be left to train on
    return ["validation" if p < bound else "train" for p in positions]
