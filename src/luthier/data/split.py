"""Training, validation and test, by a hash of what is asked: adding rows moves no others, equal prompts stay together.

Rows that ask the same fall on one *place* between 0 and 1. Places that share a field (an author, a document) or hold
near duplicates of each other are one *cluster* and go to one side together. What stands on both sides is looked for
afterwards, by other means than those that divided.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Literal

from luthier.types import Example, Pair

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
BITS = 63
BLANKED = bytes(32 if chr(c).isspace() else c for c in range(256))
"""Each ASCII byte of white space as a blank. What lies beyond ASCII is not looked at."""
RUN = re.compile(rb" {2,}")


def normalise(text: str) -> str:
    """The text in Unicode's composed form (NFC) with each run of white space as one blank."""
    if not text.isascii():
        return " ".join(unicodedata.normalize("NFC", text).split())
    blanked = text.encode().translate(BLANKED)  # some ten times as fast as `split`
    return (RUN.sub(b" ", blanked) if b"  " in blanked else blanked).strip().decode()


def _plain(texts: Sequence[str]) -> list[str]:
    return list(map(normalise, texts))


@cache
def _single() -> Callable[[Sequence[str]], list[str]]:
    """What normalises ASCII texts: compiled where numba is installed, plain elsewhere, with the same results."""
    try:
        from luthier.data.compiled_blanks import single
    except ImportError:
        return _plain
    return single


def normalise_all(texts: Sequence[str]) -> list[str]:
    """Many texts, each as `normalise` has it."""
    made = iter(_single()([text for text in texts if text.isascii()]))
    return [next(made) if text.isascii() else normalise(text) for text in texts]


def content_group(content: Example | Pair) -> str:
    """What must not stand on both sides, normalised: the first user turn, or the whole plain text."""
    return normalise(asked(content))


def asked(content: Example | Pair) -> str:
    """The first user turn, or the whole plain text."""
    if isinstance(content, Example) and content.text is not None:
        return content.text
    turns = content.prompt if isinstance(content, Pair) else content.messages
    return next((message.content for message in turns if message.role == "user"), "")


def place_of(group: str, seed: int) -> int:
    """Where a group falls: 63 bits, evenly spread over groups. It also tells groups apart."""
    mark = hashlib.blake2b(f"{seed}\n{group}".encode(), digest_size=8).digest()
    return int.from_bytes(mark, "big") >> 1


def clusters(links: Iterable[tuple[int, int]]) -> Mapping[int, int]:
    """The place that each linked place moves to, so that all places of a cluster are on one.

    It is the place of one of them, drawn by a second hash: so the order of the input does not matter, large clusters
    are as likely to be held out as small ones, and a newcomer seldom moves the others.
    """
    parent: dict[int, int] = {}

    def find(place: int) -> int:
        root = place
        while (above := parent.setdefault(root, root)) != root:
            root = above
        while parent[place] != root:
            parent[place], place = root, parent[place]
        return root

    for one, other in links:
        a, b = find(one), find(other)
        if a != b:  # the place drawn first stays the root, whatever the order of the links
            low, high = sorted((a, b), key=_draw)
            parent[high] = low
    return {place: find(place) for place in parent}


def _draw(place: int) -> bytes:
    return hashlib.blake2b(place.to_bytes(8, "big"), digest_size=8).digest()


def bounds(places: Sequence[int], validation: float, test: float = 0.0) -> tuple[int, int]:
    """Where validation and test end: places below the first go to validation, from there to the second to test.

    Few places may all fall on one side; then the bound moves to the outermost place, so that no side is empty.

    Args:
        places: the different places, in order, at least two.
        validation: share of the places that are held out for validation.
        test: share of the places that are held out for the test.
    """
    whole = 1 << BITS
    three = test > 0 and len(places) > 2
    first = min(max(int(validation * whole), places[0] + 1), places[-2 if three else -1])
    if not three:
        return first, first
    following = next(place for place in places if place >= first)
    return first, min(max(int((validation + test) * whole), following + 1), places[-1])
