"""Token sequences as trees: what several items begin with in common is read once, each branch sees its own way back.

A line of a forward pass holds one tree. Reading n tokens costs n (r + n) in units of one pair of attention, r being
what the matrices cost a token; an item joins the tree of the item before it where that makes the sum of costs less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Branches:
    """A prompt and the choices that may follow it, as token ids; neither is empty."""

    start: list[int]
    ends: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest choice."""
        return len(self.start) + max(map(len, self.ends))

    @property
    def width(self) -> int:
        """Tokens that are read: the last one of a choice predicts nothing."""
        return len(self.start) + sum(len(end) - 1 for end in self.ends)


class Tree:
    """Items whose common beginnings are held once. Nodes are numbered in the order they are to be read in.

    Attributes:
        ids: the token of each node.
        depths: how many tokens of its item stand before it.
        items: their numbers, in the order they were added.
        sources: for each choice of each item the nodes that predict its tokens.
    """

    def __init__(self, shared: int) -> None:
        self.shared = shared
        self.ids: list[int] = []
        self.depths: list[int] = []
        self.items: list[int] = []
        self.sources: list[list[int]] = []
        self._next: dict[tuple[int, int], int] = {}
        self._runs: list[tuple[int, int]] = []  # first node of a chain that is new, and its parent

    def add(self, number: int, item: Branches) -> None:
        """Add an item, without the beginning that everything shares."""
        way = self._walk(-1, self.shared, item.start[self.shared :])
        self.items.append(number)
        for end in item.ends:
            self.sources.append([way[-1], *self._walk(way[-1], len(item.start), end[:-1])])

    def _walk(self, node: int, depth: int, tokens: Sequence[int]) -> list[int]:
        way = []
        fresh = False
        for place, token in enumerate(tokens):
            found = self._next.get((node, token))
            if found is None:
                found = self._next[node, token] = len(self.ids)
                if not fresh:
                    self._runs.append((found, node))
                    fresh = True
                self.ids.append(token)
                self.depths.append(depth + place)
            way.append(found)
            node = found
        return way

    def fill(self, seen: npt.NDArray[np.bool_]) -> None:
        """Mark in [nodes, nodes] which nodes each one sees: itself and those on its way back."""
        ends = [first for first, _ in self._runs[1:]] + [len(self.ids)]
        for (first, parent), end in zip(self._runs, ends, strict=True):
            if parent >= 0:
                seen[first:end, : parent + 1] = seen[parent, : parent + 1]
            size = end - first
            seen[first:end, first:end] = np.tri(size, dtype=np.bool_)


def grow(items: Sequence[Branches], shared: int, weight: float) -> list[Tree]:
    """All items as trees, those with like beginnings together where that is cheaper.

    Args:
        items: the items.
        shared: tokens that all of them begin with, which are in a cache already.
        weight: r, what reading a token costs besides attention, in pairs of attention.
    """

    def cost(tokens: int) -> float:
        return tokens * (weight + tokens)

    trees: list[Tree] = []
    before: list[int] = []
    for number in sorted(range(len(items)), key=lambda i: items[i].start):
        item = items[number]
        width = item.width - shared
        if trees:
            n = len(trees[-1].ids)
            if cost(n + width - _common(before, item.start) + shared) >= cost(n) + cost(width):
                trees.append(Tree(shared))
        else:
            trees.append(Tree(shared))
        trees[-1].add(number, item)
        before = item.start
    return trees


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
