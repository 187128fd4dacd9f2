"""Exact duplicates: rows that differ at most in white space and Unicode form. The first one stays."""

import hashlib
import json
from collections.abc import Iterator

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
        first: dict[bytes, int] = {}
        for number, signature in rows.signatures():
            kept = first.setdefault(signature, number)
            if kept != number:
                yield Resolution(number, Fate("duplicate"), kept=kept)


def _turns(turns: tuple[Message, ...]) -> list[list[object]]:
    optional = ("reasoning", "tool_calls", "name", "train")
    return [
        [turn.role, normalise(turn.content), *(part for key in optional if (part := getattr(turn, key)))]
        for turn in turns
    ]
