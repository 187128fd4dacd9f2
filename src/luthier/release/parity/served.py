"""A server as a witness: it gets conversations and says what it makes of them, as it does for any client."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from luthier.release.endpoint import Endpoint, Served
from luthier.release.parity.testimony import POSITIONS, Probe, Said, Testimony

AT_ONCE = 8
"""Probes that are asked together: a server answers many at a time, and has to be right then, too."""


@dataclass(frozen=True, slots=True)
class Server:
    """A program that serves what is released.

    Attributes:
        name: for people.
        reads: what it serves: the released `model`, or each `gguf` file.
        absent: why it cannot be asked about a folder or a file; None when it can.
        start: serves a folder or a file for as long as its context is open.
    """

    name: str
    reads: Literal["model", "gguf"]
    absent: Callable[[Path], str | None]
    start: Callable[[Path], AbstractContextManager[Endpoint]]


def hear_server(
    endpoint: Endpoint, probes: Sequence[Probe], most: int, forced: Sequence[list[int]], stop: Sequence[int]
) -> Testimony:
    """What a server says to conversations.

    Probabilities are those of its own answer, as far as that goes on like the trained model's. Ids are compared, so it
    has to be a server that tells them, as ours and llama.cpp's do.

    Args:
        endpoint: the model's.
        probes: conversations.
        most: tokens that an answer may have.
        forced: the trained model's answers.
        stop: ids that end an answer; some servers tell them, others do not.

    Raises:
        Missing: it does not answer, or refuses.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda p: endpoint.answer(p.messages or [], most), probes))
        ids = list(pool.map(lambda p: endpoint.tokens(p.messages or []), probes))
    answers = [_said(one, stop) for one in found]
    scores = [_scores(one, ids) for one, ids in zip(found, forced, strict=True)]
    told = [one for one in ids if one is not None]
    return Testimony(ids=told if len(told) == len(ids) else None, answers=answers, scores=scores, computed="served")


def _said(found: Served, stop: Sequence[int]) -> Said:
    ids = [token.id for token in found.tokens if token.id is not None]
    return Said(ids[:-1] if found.stopped and ids and ids[-1] in stop else ids, found.text, found.stopped)


def _scores(found: Served, forced: list[int]) -> list[dict[int, float]]:
    """Of each place up to the first token that is not the trained model's, that place included."""
    places: list[dict[int, float]] = []
    for token, expected in zip(found.tokens[:POSITIONS], forced, strict=False):
        places.append(dict(token.top))
        if token.id != expected:
            break
    return [place for place in places if place]
