"""The tiny Llama of `tiny` as a GGUF file in float32, written tensor by tensor: what llama.cpp is tried on."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny import llama, sizes, tokenizer

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def write_gguf(path: Path, seed: int = 5) -> Path:
    """The model with its tokenizer and its template."""
    model, tok, size = llama(seed), tokenizer(), sizes()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(size["max_position_embeddings"])
    writer.add_embedding_length(size["hidden_size"])
    writer.add_block_count(size["num_hidden_layers"])
    writer.add_feed_forward_length(size["intermediate_size"])
    writer.add_head_count(size["num_attention_heads"])
    writer.add_head_count_kv(size["num_key_value_heads"])
    writer.add_rope_dimension_count(size["head_dim"])
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    _add_tokenizer(writer, tok)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = tensor.numpy()
        for part, heads in (("q_proj", size["num_attention_heads"]), ("k_proj", size["num_key_value_heads"])):
            if part in name:  # llama.cpp turns neighbours where transformers turns halves
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tok: Any) -> None:
    controls = set(tok.all_special_tokens)
    tokens = [tok.convert_ids_to_tokens(i) for i in range(len(tok))]
    kinds = [gguf.TokenType.CONTROL if token in controls else gguf.TokenType.NORMAL for token in tokens]
    import json

    merges = json.loads(tok.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tok.bos_token_id)
    writer.add_eos_token_id(tok.eos_token_id)
    writer.add_pad_token_id(tok.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tok.chat_template)
