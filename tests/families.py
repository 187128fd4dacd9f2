"""Tiny random models of every family that is written as GGUF, and a tokenizer like SentencePiece's."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from tiny import CHATML, of_config
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 4,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [1.0 + k / 4 for k in range(8)],
    "short_factor": [1.0 + k / 16 for k in range(8)], "original_max_position_embeddings": 32,
}  # fmt: skip


def _config(kind: Any, **changes: Any) -> Callable[[], Any]:
    return lambda: kind(**(SIZES | changes))


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama tied, grouped heads": _config(LlamaConfig, tie_word_embeddings=True),
    "llama untied, full heads": _config(LlamaConfig, tie_word_embeddings=False, num_key_value_heads=4),
    "llama with biases": _config(LlamaConfig, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "llama, heads of another width": _config(LlamaConfig, tie_word_embeddings=False, head_dim=32),
    "llama, llama3 positions": _config(LlamaConfig, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "llama, linear positions": _config(
        LlamaConfig, tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    ),
    "llama, another base of positions": _config(
        LlamaConfig, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    ),
    "mistral": _config(MistralConfig, tie_word_embeddings=False, sliding_window=None),
    "qwen2 tied": _config(Qwen2Config, tie_word_embeddings=True),
    "qwen2 untied, yarn": _config(Qwen2Config, tie_word_embeddings=False, rope_parameters=YARN),
    "qwen3": _config(Qwen3Config, tie_word_embeddings=True, head_dim=32),
    "gemma": _config(GemmaConfig, head_dim=32),
    "gemma2": _config(Gemma2Config, head_dim=32, query_pre_attn_scalar=32, sliding_window=16),
    "gemma3": _config(Gemma3TextConfig, head_dim=32, query_pre_attn_scalar=32, sliding_window=16),
    "phi3": _config(Phi3Config, tie_word_embeddings=False, sliding_window=None),
    "phi3, longrope": _config(
        Phi3Config, tie_word_embeddings=False, sliding_window=None, rope_parameters=LONG,
        original_max_position_embeddings=32,
    ),
}  # fmt: skip
"""What differs between families, each once."""


def model_of(name: str, seed: int = 0) -> Any:
    """One of them, its biases and norms not at the values they begin with."""
    model = of_config(CONFIGS[name](), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.3, 0.4, len(parameter)))
    return model


WORDS = [
    "Once upon a time there was a little girl who had a red ball.", "The dog saw the cat and the cat ran up a tree.",
    "What is the sum of one and two? It is three.", "Naïve café straße, Привет мир, 你好",
]  # fmt: skip


@cache
def spaced(prefix: str = "normalizer", size: int = 460) -> Any:
    """A BPE like SentencePiece's: visible spaces, tokens for single bytes, merges of every division of each token.

    Args:
        prefix: who puts a space before a text: the `normalizer` (as Llama 2's does), the pre-tokenizer `always` or at
            the `first` place only, or nobody: `never`.
        size: of the vocabulary, at most.
    """
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=size - 259, min_frequency=1, show_progress=False)
    learner.train_from_iterator(WORDS * 3, trainer)
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    singles = [token for token, _ in learned if len(token) == 1]
    longer = [token for token, _ in learned if len(token) > 1]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *longer, *singles]
    ids = {token: number for number, token in enumerate(pieces)}
    merges = []
    for token in longer:
        divided = [(token[:at], token[at:]) for at in range(1, len(token))]
        fits = [pair for pair in divided if pair[0] in ids and pair[1] in ids]
        merges += sorted(fits, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    inner = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prefix == "normalizer":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in pieces[:3]])
    inner.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in ("<|im_start|>", "<|im_end|>")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    fast.chat_template = "{{ bos_token }}" + CHATML
    return fast


@cache
def unigram(byte_fallback: bool) -> Any:
    """A Unigram like SentencePiece's, with tokens for single bytes or an unknown one."""
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    learner.train_from_iterator((WORDS[:3] * 3 + [CHATML]), trainer)
    learned = [(token, score) for token, score in json.loads(learner.to_str())["model"]["vocab"] if token != "<unk>"]
    singles = [(f"<0x{value:02X}>", 0.0) for value in range(256)] if byte_fallback else []
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *singles, *learned]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    inner.normalizer = normalizers.Replace(" ", SPACE)
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    ends = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ends])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = "{{ bos_token }}" + CHATML
    return fast
