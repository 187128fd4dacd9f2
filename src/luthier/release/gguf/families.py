"""What llama.cpp must be told of each family of models: facts, names of tensors, and how its weights differ.

A family is a row in `FAMILIES`: transformers' `model_type`, llama.cpp's architecture, and the three things in which
stored weights differ. Published formats: the GGUF specification of ggml, and the hyperparameters that llama.cpp reads.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from luthier.errors import RecipeError

Facts = dict[str, Any]
"""Keys of the metadata without the architecture in front; floats, ints, strings, and lists of these."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    `permutes`: rotary halves lie side by side in transformers and interleaved in llama.cpp. `norm_plus`: what
    transformers adds to a norm's weight when it computes. `more` adds facts of its own.
    """

    architecture: str
    permutes: bool = False
    norm_plus: float = 0.0
    more: Callable[[Any, Facts], None] = lambda *_: None


def facts_of(config: Any, family: Family) -> tuple[Facts, list[str]]:
    """The hyperparameters, and notes for the user where llama.cpp cannot do all that the config allows.

    Raises:
        RecipeError: the config asks for something that llama.cpp's architecture does not compute.
    """
    heads, notes = config.num_attention_heads, []
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = _rope(config)
    context, window = int(config.max_position_embeddings), _window(config)
    if window and family.architecture in ("llama", "qwen2", "qwen3", "phi3") and window < context:
        notes.append(f"llama.cpp attends to everything, the model to the last {window:,} tokens: context cut there")
        context = window
    facts: Facts = {
        "block_count": config.num_hidden_layers,
        "context_length": context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": int(head * float(rope.get("partial_rotary_factor") or 1.0)),
        "rope.freq_base": float(rope["rope_theta"]),
    }
    _activation(config, family)
    _scaling(config, rope, facts, notes)
    family.more(config, facts)
    return facts, notes


def _rope(config: Any) -> dict[str, Any]:
    given = dict(config.rope_parameters or {})
    return dict(given.get("full_attention", given))


def _window(config: Any) -> int:
    """The sliding window of plain attention, 0 without one."""
    if getattr(config, "use_sliding_window", True) is False:
        return 0
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return 0
    return int(getattr(config, "sliding_window", None) or 0)


def _activation(config: Any, family: Family) -> None:
    given = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None) or "silu"
    gemma = family.architecture.startswith("gemma")
    known = ("gelu_pytorch_tanh", "gelu", "gelu_new") if gemma else ("silu", "swish")
    if given not in known:
        raise _cannot(f"activation '{given}'", family)


def _cannot(what: str, family: Family) -> RecipeError:
    return RecipeError(
        f"llama.cpp's architecture '{family.architecture}' does not compute {what}",
        where="release.gguf",
        fix="leave release.gguf out and serve the merged model, for example with vLLM",
    )


SCALINGS = {"linear": "linear", "yarn": "yarn", "longrope": "longrope", "su": "longrope"}


def _scaling(config: Any, rope: dict[str, Any], facts: Facts, notes: list[str]) -> None:
    kind = str(rope.get("rope_type") or "default")
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    if kind in ("default", "llama3"):  # llama3's factors are a tensor
        return
    if kind == "dynamic":
        notes.append("llama.cpp does not stretch positions dynamically: exact up to the trained context")
        return
    if kind not in SCALINGS:
        raise RecipeError(
            f"llama.cpp knows no rope scaling '{kind}'", where="release.gguf", fix="serve the merged model"
        )
    facts["rope.scaling.type"] = SCALINGS[kind]
    if kind in ("linear", "yarn"):
        facts["rope.scaling.factor"] = float(rope["factor"])
    if original:
        facts["rope.scaling.original_context_length"] = int(original)
    if kind == "yarn":
        names = {"attention_factor": "attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
        facts |= {f"rope.scaling.{b}": float(rope[a]) for a, b in names.items() if rope.get(a) is not None}
        if rope.get("attention_factor") is not None:  # llama.cpp multiplies by 1 + 0.1 ln(factor) of its own
            facts["rope.scaling.yarn_attn_factor"] = float(rope["attention_factor"]) / (
                1 + 0.1 * math.log(rope["factor"])
            )
    if SCALINGS[kind] == "longrope":
        start = float(original or config.max_position_embeddings)
        stretch = float(rope.get("factor") or config.max_position_embeddings / start)
        computed = math.sqrt(1 + math.log(stretch) / math.log(start)) if stretch > 1 else 1.0
        facts["rope.scaling.attn_factor"] = float(rope.get("attention_factor") or computed)
        notes.append(f"llama.cpp takes the long factors where its context is set above {start:,.0f} tokens")


def extra_tensors(config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that stand in the config: factors of rotary frequencies, float32 [half the rotary dimension]."""
    rope = _rope(config)
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config, rope)
    if rope.get("rope_type") in ("longrope", "su"):
        for name in ("long", "short"):
            yield f"rope_factors_{name}.weight", torch.tensor(rope[f"{name}_factor"], dtype=torch.float32)


def _llama3_factors(config: Any, rope: dict[str, Any]) -> torch.Tensor:
    """What each frequency is divided by (Llama 3.1): the lowest by the whole factor, the highest not at all."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies: torch.Tensor = float(rope["rope_theta"]) ** -(torch.arange(0, head, 2, dtype=torch.float64) / head)
    turns = float(rope["original_max_position_embeddings"]) * frequencies / (2 * math.pi)  # in the original context
    low, high, factor = (float(rope[k]) for k in ("low_freq_factor", "high_freq_factor", "factor"))
    share: torch.Tensor = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / factor + share)).float()


def _gemma2(config: Any, facts: Facts) -> None:
    facts["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
    facts["final_logit_softcapping"] = float(config.final_logit_softcapping)
    facts["attention.sliding_window"] = int(config.sliding_window)
    _layers_alternate(config, 2, "gemma2")
    _attention_scale(config, 46, "gemma2")


def _gemma3(config: Any, facts: Facts) -> None:
    if getattr(config, "final_logit_softcapping", None):
        facts["final_logit_softcapping"] = float(config.final_logit_softcapping)
    facts["attention.sliding_window"] = int(config.sliding_window)
    local = (config.rope_parameters or {}).get("sliding_attention") or {}
    if float(local.get("rope_theta", 10_000.0)) != 10_000.0:
        facts["rope.freq_base_swa"] = float(local["rope_theta"])
    _layers_alternate(config, 6, "gemma3")
    _attention_scale(config, 62, "gemma3")


def _layers_alternate(config: Any, every: int, name: str) -> None:
    """llama.cpp fixes which layers look at everything: the last of each group of `every`."""
    expected = [
        "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(config.num_hidden_layers)
    ]
    if list(config.layer_types) != expected:
        raise _cannot(f"this order of sliding and full attention (every {every}th layer is full)", Family(name))


def _attention_scale(config: Any, large: int, name: str) -> None:
    """llama.cpp fixes what scores are divided by: the root of the head's width, in the largest model of its share."""
    by = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == large else config.head_dim
    if config.query_pre_attn_scalar != by:
        raise _cannot(f"query_pre_attn_scalar {config.query_pre_attn_scalar} (it takes {by})", Family(name))


def _phi3(config: Any, facts: Facts) -> None:
    facts["attention.sliding_window"] = int(config.sliding_window or 0)
    rope = _rope(config)
    facts["rope.scaling.original_context_length"] = int(
        rope.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
    )


FAMILIES = {
    "llama": Family("llama", permutes=True),
    "mistral": Family("llama", permutes=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", norm_plus=1.0),
    "gemma2": Family("gemma2", norm_plus=1.0, more=_gemma2),
    "gemma3_text": Family("gemma3", norm_plus=1.0, more=_gemma3),
    "phi3": Family("phi3", more=_phi3),
}


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`.

    Raises:
        RecipeError: it is not known here.
    """
    if model_type not in FAMILIES:
        raise RecipeError(
            f"models of kind '{model_type}' are not written as GGUF here; known: {', '.join(FAMILIES)}",
            where="release.gguf",
            fix="set release.llama_cpp to the folder of a llama.cpp checkout: its converter is used then",
        )
    return FAMILIES[model_type]


def for_llama_cpp(name: str, tensor: torch.Tensor, config: Any, family: Family) -> torch.Tensor:
    """A tensor of transformers as llama.cpp computes with it, same shape.

    Args:
        name: in transformers.
        tensor: in float32.
        config: the model's.
        family: its family.
    """
    part = name.split(".")[-2]
    if family.norm_plus and part.endswith("norm"):
        return tensor + family.norm_plus
    if family.permutes and part in ("q_proj", "k_proj"):
        heads = config.num_attention_heads
        if part == "k_proj":
            heads = getattr(config, "num_key_value_heads", None) or heads
        return interleaved(tensor, heads)
    return tensor


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head in the order 0, h, 1, h + 1, ... with h half the head's width."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
