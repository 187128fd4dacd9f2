"""A server as a witness: it gets conversations and says what it makes of them, as it does for any client."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from luthier.release.endpoint import Endpoint, Served
from luthier.release.parity.testimony import POSITIONS, Probe, Said, Testimony

AT_ONCE = 8
"""Probes that are asked together: a server answers many at a time, and has to be right then, too."""


def hear_server(endpoint: Endpoint, probes: Sequence[Probe], most: int, forced: Sequence[list[int]]) -> Testimony:
    """What a server says to conversations.

    Probabilities are those of its own answer, as far as that goes on like the trained model's. Ids are compared, so it
    has to be a server that tells them, as ours and llama.cpp's do.

    Args:
        endpoint: the model's.
        probes: conversations.
        most: tokens that an answer may have.
        forced: the trained model's answers.

    Raises:
        Missing: it does not answer, or refuses.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda p: endpoint.answer(p.messages or [], most), probes))
        ids = list(pool.map(lambda p: endpoint.tokens(p.messages or []), probes))
    answers = [_said(one) for one in found]
    scores = [_scores(one, ids) for one, ids in zip(found, forced, strict=True)]
    told = [one for one in ids if one is not None]
    return Testimony(ids=told if len(told) == len(ids) else None, answers=answers, scores=scores)


def _said(found: Served) -> Said:
    return Said([token.id for token in found.tokens if token.id is not None], found.text, found.stopped)


def _scores(found: Served, forced: list[int]) -> list[dict[int, float]]:
    """Of each place up to the first token that is not the trained model's, that place included."""
    places: list[dict[int, float]] = []
    for token, expected in zip(found.tokens[:POSITIONS], forced, strict=False):
        places.append(dict(token.top))
        if token.id != expected:
            break
    return [place for place in places if place]
