"""Section `training`: how long, how fast, when to stop."""

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.section import Section

PATIENCE = 3
"""Validations in a row that may be no better than the best, where the recipe does not say how many."""


class Training(Section):
    """The loop."""

    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training rows."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many updates, if the epochs have not ended before."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak of the schedule; from the plan (by tuning and model size) when not given."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop after this time in training, with the best weights so far."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW; `adamw_8bit` holds its two moments in 8 bits and needs the extra `luthier[qlora]`."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the updates over which the rate rises from zero."""
    batch_tokens: Annotated[int, Field(ge=16)] | None = None
    """Tokens per update, non-padding; from the plan when not given."""
    micro_batch_tokens: Annotated[int, Field(ge=16)] | None = None
    """Most tokens in one forward pass; smaller needs less memory and changes nothing else."""
    packing: bool = True
    """Lay several rows in one sequence, none seeing another. Off: one row a sequence, padded."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of AdamW, on matrices only."""
    neftune: Annotated[float, Field(ge=0)] = 0.0
    """Size alpha of uniform noise on the embeddings in training (Jain et al. 2023, arXiv:2310.05914; they take 5)."""
    memory: Literal["fast", "lean"] | None = None
    """`fast` keeps all activations for the backward pass; `lean` computes them again there, about a third more work.
    What fits when not given: nothing again, cheap parts, or everything, block by block."""
    compile: bool | None = None
    """Compile the model's blocks with torch.compile, which takes a minute or two and needs a C++ compiler on a CPU.
    Where the run is long enough to win that back when not given."""
    devices: Annotated[int, Field(ge=1)] | None = None
    """How many GPUs (or, on a machine without, processes) train together; all GPUs when not given, else one process."""
    parallel: Literal["ddp", "fsdp"] | None = None
    """How several devices share the work: `ddp`, each holds everything; `fsdp`, each holds a part of it. From the plan
    when not given."""
    probe: bool = True
    """Try one update before training, to measure its memory. Not with `fsdp`, whose memory is measured in training."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient; a larger one is scaled down."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Updates between validations; ten to a run, at least one an epoch, when not given."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop when this many validations in a row were not better than the best; 3 when not given, and without end where
    the model learns from rewards, whose end the monitor decides on."""
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    """Updates between checkpoints to resume from; at every validation when not given."""
    trace: Annotated[int, Field(ge=0)] = 0
    """How many models on the way are kept with the tuned one, evenly spaced: where a suite fails the gate, they tell
    between which updates it broke."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints are kept while training."""
