"""Floating-point operations and time.

With P the weights of the blocks' linear layers, V h those of the output head, L blocks, q the width of the queries, S
the mean length of a row, f the share of tokens with a label and A the adapter's parameters, per token:

    forward F = 2 P + 2 V h f + 2 L q S          (causal attention counted at half the square)
    full      = 3 F
    adapters  = 2 F + 6 A                        (the gradients of frozen weights are not computed, and not counted)
    freeze    = F + 2 (share of trained blocks) (F without the head) + 2 V h f

A reference adds one F for each row once; KTO's mates add one F an epoch.
"""

from luthier.models.facts import ModelFacts
from luthier.recipe import Freeze, Tuning

PEAKS = {
    "H200": 989e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12,
    "L4": 121e12, "A10G": 70e12, "A10": 125e12, "A40": 150e12, "A6000": 155e12, "V100": 125e12, "T4": 65e12,
    "4090": 165e12, "3090": 71e12, "5090": 210e12, "4080": 98e12,
}  # fmt: skip
"""Dense bfloat16 (float16 where there is none) operations a second, from the makers' data sheets."""
REACHED = 0.35
"""Share of that peak that training reaches; published LoRA runs on one H100 reach 0.41 (NVIDIA NeMo AutoModel)."""
CPU_FLOPS = 40e9
"""Float32 operations a second that one core reaches in training; measured, good to a factor of two."""


def flops_per_token(facts: ModelFacts, tuning: Tuning, trainable: int, *, length: float, labelled: float) -> int:
    """Operations of one token, forward and backward. `length` is S, `labelled` f."""
    attention = 2 * facts.layers * (facts.queries or facts.hidden) * length
    head = 2 * facts.vocabulary * facts.hidden * labelled
    blocks = 2 * facts.linear + attention
    forward = blocks + head
    if tuning.kind == "full":
        return int(3 * forward)
    if isinstance(tuning, Freeze):
        share = min(1.0, tuning.blocks / facts.layers)
        return int(forward + 2 * share * blocks + head)
    return int(2 * forward + 6 * trainable)


def forward_flops(facts: ModelFacts, *, length: float, labelled: float) -> float:
    """Operations of one token, forward only."""
    attention = 2 * facts.layers * (facts.queries or facts.hidden) * length
    return 2 * facts.linear + attention + 2 * facts.vocabulary * facts.hidden * labelled


def speed(card: str | None, cores: int) -> float | None:
    """Operations a second that training reaches; None for a card that is not in the table."""
    if card is None:
        return CPU_FLOPS * cores
    words = card.upper().replace("-", " ").split()
    found = [peak for name, peak in PEAKS.items() if name in words]
    return REACHED * max(found) if found else None
