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
