"""Content and token rows as bytes, as they lie in a memory's bodies."""

import json
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from pydantic_core import to_json

from luthier.data.step import Content
from luthier.text import TrainingRow
from luthier.types import Example, Json, Pair

JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""Made once: `json.dumps` makes one at each call."""
PLAIN_KINDS = frozenset({str, int, bool, type(None)})
NOWHERE = b'{"source":"","line":0'
"""How content without its place begins."""
TRAINED = (b"\0", b"\1")


def pack_content(content: Content) -> bytes:
    """An example or pair as JSON, without its place."""
    return pack_json(content.to_json() | {"source": "", "line": 0})


def pack_json(body: Json | Sequence[Any]) -> bytes:
    """What `json` writes with the fewest signs; of texts the same bytes, made some eight times as fast."""
    try:
        if _texts_only(body):
            return to_json(body)
    except (ValueError, RecursionError):  # half a character; nested deeply
        pass
    return JSON.encode(body).encode("utf-8", "surrogatepass")


def _texts_only(value: Any) -> bool:
    """False for what the two write otherwise: numbers with a fraction, and what JSON does not have."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _texts_only(part) for key, part in value.items())
    if kind is list:
        return all(map(_texts_only, value))
    return kind in PLAIN_KINDS


def unpack_content(body: bytes, source: str, line: int) -> Content:
    """Read what `pack_content` wrote, at the place where the row stands."""
    row = json.loads(body) | {"source": source, "line": line}
    return Pair.from_json(row) if "chosen" in row else Example.from_json(row)


def at_place(body: bytes, source: str, line: int) -> bytes:
    """What `pack_content` wrote, with the place where the row stands."""
    assert body.startswith(NOWHERE)
    return pack_json({"source": source, "line": line})[:-1] + body[len(NOWHERE) :]


def pack_rows(rows: Sequence[TrainingRow]) -> bytes:
    """Token rows as bytes: some 2 a token where ids are below 65,536, and 4 elsewhere.

    Whole numbers of 32 bits: the number of rows, of the mask's runs and of bytes an id; the rows' lengths; the runs,
    not trained and trained in turn, over all rows. Then all ids.
    """
    ids = np.frombuffer(array("i", chain.from_iterable(row.ids for row in rows)), np.int32)
    mask = np.frombuffer(b"".join(bytes(row.trained) for row in rows), np.uint8)
    turns = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    runs = [0] if mask.size and mask[0] else []
    runs += [end - start for start, end in pairwise((0, *turns.tolist(), len(mask)))]
    small = np.uint16 if ids.size and ids.min() >= 0 and ids.max() < 1 << 16 else np.int32
    head = [len(rows), len(runs), np.dtype(small).itemsize, *(len(row.ids) for row in rows), *runs]
    return np.array(head, np.int32).tobytes() + ids.astype(small).tobytes()


def unpack_rows(packed: bytes) -> list[tuple[bytes, bytes]]:
    """Ids (int32) and mask (a byte a token) of each token row."""
    count, turns, width = np.frombuffer(packed, np.int32, 3).tolist()
    lengths = np.frombuffer(packed, np.int32, count, 12).tolist()
    runs = np.frombuffer(packed, np.int32, turns, 12 + 4 * count).tolist()
    small = np.frombuffer(packed, np.uint16 if width == 2 else np.int32, offset=12 + 4 * (count + turns))
    ids = small.astype(np.int32, copy=False).tobytes()
    mask = b"".join(TRAINED[k % 2] * run for k, run in enumerate(runs))
    found: list[tuple[bytes, bytes]] = []
    start = 0
    for end in accumulate(lengths):
        found.append((ids[4 * start : 4 * end], mask[start:end]))
        start = end
    return found
