"""What the plan needs to know of a model. Imports no torch, so that a plan is read quickly."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Counts and sizes of a model."""

    total: int
    """Parameters, tied ones counted once."""
    linear: int
    """Of these, in the linear layers of the blocks."""
    hidden: int
    layers: int
    vocabulary: int
    context: int
    queries: int = 0
    """Width of all query heads together; `hidden` when 0."""
    keys: int = 0
    """Width of all key heads together, and of the values; `hidden` when 0."""
    heads: int = 0
    """Heads of queries."""
    inner: int = 0
    """Width of the feed-forward part; four times `hidden` when 0."""
    largest: int = 0
    """Parameters of the largest tensor."""
    odd: tuple[str, ...] = ()
    """Linear layers whose input does not divide into the 64 values that 4 bits share a scale for."""
