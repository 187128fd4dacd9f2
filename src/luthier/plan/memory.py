"""Memory of a training run, in bytes by part.

| part | bytes | why |
| --- | --- | --- |
| weights | parameters x 4 or 2; linear ones x 0.516 under NF4 | Dettmers et al. 2023, double quantisation |
| gradients | trainable x 4 | float32 |
| optimizer | trainable x 8 | two moments of AdamW in float32 |
| activations | tokens x layers x hidden x 17 values | Korthikanti et al. 2022, 4.1; no attention scores are kept |
| logits | two chunks of 2^24 float32, or all labels if fewer | the loss head |
"""

from luthier.models.facts import ModelFacts

CHUNK_LOGITS = 1 << 24
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4 = 0.516


def memory_parts(facts: ModelFacts, kind: str, trainable: int, dtype: str, micro_tokens: int) -> dict[str, int]:
    """The parts and their `total`, in bytes.

    Args:
        facts: of the base model.
        kind: of the tuning.
        trainable: parameters that are trained.
        dtype: number format of the weights in training.
        micro_tokens: tokens in one forward pass.
    """
    size = BYTES[dtype]
    if kind == "full":
        weights = facts.total * 4.0
    elif kind == "qlora":
        weights = (facts.total - facts.linear) * size + facts.linear * NF4
    else:
        weights = facts.total * size
    adapters = 0 if kind == "full" else trainable * 4
    parts = {
        "weights": int(weights) + adapters,
        "gradients": trainable * 4,
        "optimizer": trainable * 8,
        "activations": micro_tokens * facts.layers * facts.hidden * 17 * size,
        "logits": 2 * 4 * min(CHUNK_LOGITS, micro_tokens * facts.vocabulary),
    }
    return parts | {"total": sum(parts.values())}
