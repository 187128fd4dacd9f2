"""Memory of a training run on one device, in bytes by part. bench/memory.py compares it with measured peaks.

| part | bytes | why |
| --- | --- | --- |
| runtime | `RUNTIME` | the interpreter, torch and its libraries; a CUDA context |
| weights | parameters x 4 or 2; linear ones x 0.516 (4 bits) or 1 (8 bits) | Dettmers et al. 2023 |
| gradients | trainable x 4 | float32 |
| optimizer | trainable x 8, or 2 | two moments of AdamW in float32, or in 8 bits |
| activations | tokens x layers x values of a block | what the backward pass needs, below |
| logits | tokens with a label x vocabulary x 4, by chunks of 2^24 | the loss head |
| saving | trainable x 8 less what else is free then | a checkpoint is copied once as it is written |
| fragmentation | 3 % on a CPU, 8 % on a GPU | what the allocator holds and nobody uses |

Values that a block keeps for each token, h hidden, q queries, k keys, i inner, as transformers computes it and the
packed attention keeps it: norms 4h, their outputs 2h where a layer learns from them, attention 3q + 2k, the rest 4i.
With recomputation a block keeps its input, h, and one block at a time all the rest.
"""

from dataclasses import dataclass

from luthier.models.facts import ModelFacts
from luthier.recipe import Freeze, Lora, Qlora, Tuning

CHUNK_LOGITS = 1 << 24
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTISED = {4: 0.516, 8: 1.0}
RUNTIME = {"cpu": 0.62e9, "gpu": 0.8e9}
FRAGMENTATION = {"cpu": 0.03, "gpu": 0.08}
LIVE_LOGITS = {"cpu": 4, "gpu": 5}
"""Copies of a chunk's logits that are alive at once: they, their log-softmax, and the gradients of both."""
PROMPTS = ("prefix", "prompt", "p-tuning")


@dataclass(frozen=True, slots=True)
class Setting:
    """What memory depends on besides the model."""

    tuning: Tuning
    trainable: int
    dtype: str
    tokens: int
    """Tokens of one forward pass on one device."""
    labelled: float = 1.0
    """Share of them with a label."""
    recompute: bool = False
    optimizer: str = "adamw"
    gpu: bool = False
    world: int = 1
    parallel: str = "one"


def memory_parts(facts: ModelFacts, setting: Setting) -> dict[str, int]:
    """The parts and their `total`, in bytes, on one of the devices."""
    place = "gpu" if setting.gpu else "cpu"
    shares = setting.world if setting.parallel == "fsdp" else 1
    weights = _weights(facts, setting)
    gradients = setting.trainable * 4 / shares
    optimizer = setting.trainable * (2 if setting.optimizer == "adamw_8bit" else 8) / shares
    labels = setting.tokens * setting.labelled
    chunk = min(CHUNK_LOGITS, labels * facts.vocabulary)
    parts = {
        "runtime": RUNTIME[place],
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": _activations(facts, setting),
        "logits": LIVE_LOGITS[place] * 4 * chunk,
    }
    passing = parts["gradients"] + parts["activations"] + parts["logits"]
    saving = optimizer + facts.largest * 4 if not setting.gpu else 0  # on a GPU the copy is in the host's memory
    parts["saving"] = max(0.0, saving - passing)
    parts["fragmentation"] = FRAGMENTATION[place] * sum(parts.values())
    whole = {name: int(value) for name, value in parts.items()}
    return whole | {"total": sum(whole.values())}


def _weights(facts: ModelFacts, setting: Setting) -> float:
    size, kind = BYTES[setting.dtype], setting.tuning.kind
    if isinstance(setting.tuning, Qlora):
        held = (facts.total - facts.linear) * size + facts.linear * QUANTISED[setting.tuning.bits]
    else:
        held = facts.total * (4 if kind in ("full", "freeze") else size)
    adapters = 0 if kind in ("full", "freeze") else setting.trainable * 4
    if setting.parallel != "fsdp":
        return held + adapters
    # every device holds its share, and two blocks whole: the one that is used and the one that comes next
    gathered = 2 * facts.linear / facts.layers * size + (facts.total - facts.linear) * size
    return (held + adapters) / setting.world + gathered


def _activations(facts: ModelFacts, setting: Setting) -> float:
    """Bytes that the forward pass keeps for the backward pass, and the largest that live beside them for a moment."""
    h, q = facts.hidden, facts.queries or facts.hidden
    k, i = facts.keys or facts.hidden, facts.inner or 4 * facts.hidden
    size = BYTES[setting.dtype]
    kind = setting.tuning.kind
    if kind in ("full", "lora", "qlora"):
        inputs = 2 * h + q + 2 * i  # what a linear layer learns from, its own input
        kept = 4 * h + 2 * q + 2 * k + 2 * i + inputs
    else:
        kept = 4 * h + 2 * q + 2 * k + 3 * i + q
    if kind in PROMPTS:
        kept += k
    if kind == "adapter":
        kept += 2 * h
    if isinstance(setting.tuning, Lora):
        kept += (4 * h + q + 2 * i + 2 * k) * (setting.tuning.dropout > 0)
    layers: float = facts.layers
    if isinstance(setting.tuning, Freeze):
        layers = min(layers, setting.tuning.blocks)
    passing = 3 * i + 2 * h  # gradients inside of the block that the backward pass is in
    if setting.recompute:
        return setting.tokens * size * (facts.layers * h + kept + passing)
    return setting.tokens * size * (layers * kept + passing)
