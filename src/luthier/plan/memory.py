"""Memory of a training run on one device, in bytes by part. bench/memory.py compares it with measured peaks.

| part | bytes | why |
| --- | --- | --- |
| runtime | `RUNTIME` | the interpreter, torch and its libraries; a CUDA context |
| weights | parameters x 4 or 2; linear ones x 0.516 (4 bits) or 1 (8 bits) | Dettmers et al. 2023 |
| gradients | trainable x 4 | float32 |
| optimizer | trainable x 8, or 2 | two moments of AdamW in float32, or in 8 bits |
| activations | tokens x layers x `kept` values | what the backward pass needs |
| roles | a critic's weights, gradients, moments and activations; a second, frozen model | PPO; a KL to a model before |
| logits | tokens with a label x vocabulary x 4, by chunks of 2^24, three times, two beside a frozen head | the head |
| saving | trainable x 8 less what else is free then | a checkpoint is copied once as it is written |
| loading | with FSDP: the whole model, less what else is held | it is loaded whole and then shared out |
| fragmentation | `WASTE` of activations and logits on a CPU, 8 % of all on a GPU | what is held and not used |

Values that a block keeps for each token, h hidden, q queries, k keys, i inner, r rank, as transformers computes it; of
each line what is trained decides:

| kept | values | by |
| --- | --- | --- |
| always | 2h + 2q + 2k + 3i | both norms; attention's queries, keys, values, output; gate, its activation, and up |
| inputs of linear layers | 2h + q + i | every linear layer that learns, or has a LoRA beside it |
| normed values | 2h | norms that learn |
| LoRA | with dropout a mask of one byte a value, and r, for each layer | dropout |
| weights of attention | heads x half of a row's length | rows of 160 to 512 tokens on a CPU (`models/blockwise.py`) |
| DoRA | every layer's output | the lengths that are learned |
| IA3 | 2k + i | what the factors multiply |
| adapter | 2h + 4 width | the bottlenecks' inputs and insides |

A block that computes everything again keeps its input, h; one that computes its cheap parts again its input and all
products, 3h + 2q + 2k + 2i; and one block at a time has all the rest.
"""

from dataclasses import dataclass, replace

from luthier.models.facts import ModelFacts
from luthier.recipe import Adapter, Freeze, Lora, Qlora, Tuning

CHUNK_LOGITS = 1 << 24
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTISED = {4: 0.516, 8: 1.0}
RUNTIME = {"cpu": 0.54e9, "gpu": 0.8e9}
WASTE = {"full": 0.1, "other": 0.4, "again": 1.0}
"""On a CPU, the share of activations and logits that glibc's heap holds on top; weights of attention, alike in every
block, find their places again. Freed tensors leave holes that a new one of the same size does not fit, since it has to
begin at a multiple of 64. `again`: where blocks compute activations again, which come and go block by block."""
GPU_WASTE = 0.08
LIVE_LOGITS = {"trained": 3, "frozen": 2}
"""Copies of a chunk's logits that are alive at once: they, their log-softmax, and the gradient of a trained head."""
WHOLE = ("full", "freeze")
SHORT = (160, 512)
"""Tokens of rows whose weights of attention are kept on a CPU; those of `models/blockwise.py`, which imports torch."""


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
    recompute: int = 0
    """Blocks that compute everything again in the backward pass."""
    optimizer: str = "adamw"
    gpu: bool = False
    world: int = 1
    parallel: str = "one"
    cheap: int = 0
    """Blocks that compute their cheap parts again."""
    length: float = 0.0
    """Tokens of a row, on average."""
    critic: bool = False
    """Whether values are learned beside the policy, in its way: by adapters of their own, or a model of their own."""
    beside: bool = False
    """Whether a second, frozen model says what the model said before training."""


def memory_parts(facts: ModelFacts, setting: Setting) -> dict[str, int]:
    """The parts and their `total`, in bytes, on one of the devices."""
    shares = setting.world if setting.parallel == "fsdp" else 1
    labels = setting.tokens * setting.labelled
    chunk = min(CHUNK_LOGITS, labels * facts.vocabulary)
    parts = {
        "runtime": RUNTIME["gpu" if setting.gpu else "cpu"],
        "weights": _weights(facts, setting),
        "gradients": setting.trainable * 4 / shares,
        "optimizer": setting.trainable * (2 if setting.optimizer == "adamw_8bit" else 8) / shares,
        "activations": _activations(facts, setting),
        "logits": LIVE_LOGITS["trained" if setting.tuning.kind == "full" else "frozen"] * 4 * chunk,
    }
    parts["roles"] = _roles(facts, setting, parts["activations"])
    passing = parts["gradients"] + parts["activations"] + parts["logits"]
    # on a GPU the copy is in the host's memory
    saving = parts["optimizer"] + facts.largest * 4 if not setting.gpu else 0
    parts["saving"] = max(0.0, saving - passing)
    parts["loading"] = max(0.0, _whole(facts, setting) - passing) if shares > 1 else 0.0
    if setting.gpu:
        parts["fragmentation"] = GPU_WASTE * sum(parts.values())
    else:
        again = setting.recompute or setting.cheap
        waste = WASTE["again"] if again else WASTE.get(setting.tuning.kind, WASTE["other"])
        parts["fragmentation"] = waste * (_activations(facts, replace(setting, length=0.0)) + parts["logits"])
    whole = {name: int(value) for name, value in parts.items()}
    return whole | {"total": sum(whole.values())}


def _roles(facts: ModelFacts, setting: Setting, activations: float) -> float:
    """What else is held where rewards are learned from."""
    held = facts.total * BYTES[setting.dtype] if setting.beside else 0.0
    if setting.critic:
        learned = facts.total if setting.tuning.kind in WHOLE else setting.trainable
        moments = 2 if setting.optimizer == "adamw_8bit" else 8
        held += learned * 4 + setting.trainable * (4 + moments) + activations
    return held


def _whole(facts: ModelFacts, setting: Setting) -> float:
    """The weights as they are loaded, with what is trained beside them."""
    size, kind = BYTES[setting.dtype], setting.tuning.kind
    if isinstance(setting.tuning, Qlora):
        held = (facts.total - facts.linear) * size + facts.linear * QUANTISED[setting.tuning.bits]
    elif isinstance(setting.tuning, Lora) and setting.tuning.base != "exact":
        held = (facts.total - facts.linear) * size + facts.linear * QUANTISED[8]
    else:
        held = facts.total * (4 if kind in WHOLE else size)
    return held + (0 if kind in WHOLE else setting.trainable * 4)


def _weights(facts: ModelFacts, setting: Setting) -> float:
    if setting.parallel != "fsdp":
        return _whole(facts, setting)
    # every device holds its share, and two blocks whole: the one that is used and the one that comes next
    size = BYTES[setting.dtype]
    outside = (facts.total - facts.linear) * size
    if isinstance(setting.tuning, Lora) and setting.tuning.base != "exact":  # a rounded base is not shared out
        rounded = facts.linear * QUANTISED[8]
        return rounded + (_whole(facts, setting) - rounded) / setting.world + outside
    return _whole(facts, setting) / setting.world + 2 * facts.linear / facts.layers * size + outside


def _activations(facts: ModelFacts, setting: Setting) -> float:
    """Bytes that the forward pass keeps for the backward pass."""
    size = BYTES[setting.dtype]
    kept = _kept(facts, setting.tuning, size) + _weights_of_attention(facts, setting)
    layers: float = facts.layers
    if isinstance(setting.tuning, Freeze):
        layers = min(layers, setting.tuning.blocks)
    again, cheap = min(setting.recompute, layers), min(setting.cheap, layers - min(setting.recompute, layers))
    held = (layers - again - cheap) * kept + again * facts.hidden + cheap * min(kept, _products(facts))
    if again or cheap:  # one block at a time has all of it, and what passes through it
        held += kept + 3 * (facts.inner or 4 * facts.hidden) + 2 * facts.hidden
    return setting.tokens * size * held


def _weights_of_attention(facts: ModelFacts, setting: Setting) -> float:
    """Values a token that attention in blocks keeps; learned prompts stand before every row, and go another way."""
    short = SHORT[0] <= setting.length <= SHORT[1] and setting.tuning.kind not in ("prompt", "prefix")
    return facts.heads * setting.length / 2 if short and not setting.gpu and setting.dtype == "float32" else 0.0


def _products(facts: ModelFacts) -> float:
    """Values a token that a block keeps when only its cheap parts are computed again: its input, and all products."""
    h, q = facts.hidden, facts.queries or facts.hidden
    k, i = facts.keys or facts.hidden, facts.inner or 4 * facts.hidden
    return 3 * h + 2 * q + 2 * k + 2 * i


def _kept(facts: ModelFacts, tuning: Tuning, size: int = 4) -> float:
    """Values of `size` bytes that one block keeps for a token."""
    h, q = facts.hidden, facts.queries or facts.hidden
    k, i = facts.keys or facts.hidden, facts.inner or 4 * facts.hidden
    kept: float = 2 * h + 2 * q + 2 * k + 3 * i
    if tuning.kind in WHOLE:
        kept += 2 * h + q + i + 2 * h
    if isinstance(tuning, Lora):
        kept += _lora(facts, tuning, size)
    if tuning.kind == "ia3":
        kept += 2 * k + i
    if tuning.kind == "prefix":
        kept += 2 * k
    if isinstance(tuning, Adapter):
        places = 2 if tuning.places == "both" else 1
        kept += places * (h + 2 * tuning.width)
    return kept


LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a block; families with other names have them all."""


def _lora(facts: ModelFacts, tuning: Lora, size: int) -> float:
    """Values that the LoRA layers keep: inputs, once for layers that share one, and what dropout and DoRA need."""
    h, q = facts.hidden, facts.queries or facts.hidden
    k, i = facts.keys or facts.hidden, facts.inner or 4 * facts.hidden
    wide = dict(zip(LAYERS, ((h, q), (h, k), (h, k), (q, h), (h, i), (h, i), (i, h)), strict=True))
    named = tuning.target_modules
    names = list(LAYERS) if named == "all-linear" or set(named) - set(LAYERS) else named
    shared = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "up", "up_proj": "up"}
    kept: float = sum({shared.get(name, name): wide[name][0] for name in names}.values())
    if tuning.dropout:
        kept += sum(wide[name][0] / size + tuning.rank for name in names)
    if tuning.dora:
        kept += sum(wide[name][1] for name in names)
    return kept
