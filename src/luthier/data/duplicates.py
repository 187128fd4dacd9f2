"""Exact duplicates: rows that differ at most in white space and Unicode form. The first one stays."""

import hashlib
import json
from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from luthier.data.split import normalise
from luthier.data.step import Resolution, Row, Rows, SetStep
from luthier.recipe.curate import Duplicates as Settings
from luthier.types import Example, Fate, Message, Pair


class Duplicates(SetStep[Settings]):
    """The same conversation, pair or text again, whatever shape it came in."""

    name = "duplicates"
    version = 2

    def signature(self, row: Row) -> bytes:
        """A hash of the turns, 16 bytes."""
        content = row.content
        if isinstance(content, Example) and content.text is not None:
            return hashlib.sha256(b"text\n" + row.group.encode("utf-8", "surrogatepass")).digest()[:16]
        if isinstance(content, Pair):
            parts: list[object] = [_turns(content.prompt), _turns(content.chosen), _turns(content.rejected)]
        else:
            parts = [_turns(content.messages)]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).digest()

    def resolve(self, rows: Rows) -> Iterator[Resolution]:
        """Every row but the first with its signature."""
        numbers, whole = array("q"), bytearray()
        for number, signature in rows.signatures():
            numbers.append(number)
            whole += signature
        order, first = _same(np.frombuffer(whole, np.dtype("2u8")))
        for number, kept in zip(order.tolist(), first.tolist(), strict=True):
            yield Resolution(numbers[number], Fate("duplicate"), kept=numbers[kept])


def _same(marks: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of marks, `[n, 2]`, the places of those that stood before, in order, and where they stood first."""
    order = np.lexsort((marks[:, 1], marks[:, 0]))  # stable: equal ones lie in the order of the input
    new = np.ones(len(order), np.bool_)
    new[1:] = (marks[order[1:]] != marks[order[:-1]]).any(axis=1)
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    again, kept = order[~new], first[~new]
    turn = np.argsort(again)
    return again[turn], kept[turn]


def _turns(turns: tuple[Message, ...]) -> list[list[object]]:
    optional = ("reasoning", "tool_calls", "name", "train")
    return [
        [turn.role, normalise(turn.content), *(part for key in optional if (part := getattr(turn, key)))]
        for turn in turns
    ]
