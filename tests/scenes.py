"""What whole runs in tests start from: a tiny base model made on the spot, rows it can learn, and a recipe for both."""

import json
from pathlib import Path

import yaml

from luthier.types import Json

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTROLS = ["<|begin|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
THINGS = ["drum", "radio", "coat", "lamp", "phone"]
SAYINGS = ["The {} {} is broken.", "Please replace {} {}.", "My {} {} never came.", "I want to return {} {}."]


def make_base(folder: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A Llama of random weights with a byte-level BPE tokenizer and a chat template, saved as a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=CONTROLS, initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator((turn["content"] for row in conversations(50) for turn in row["messages"]), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token=CONTROLS[0], pad_token=CONTROLS[1], eos_token=CONTROLS[-1]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def conversations(n: int) -> list[Json]:
    """Rows that ask which thing a sentence is about; no two ask the same."""
    rows = []
    for i in range(n):
        thing, saying = THINGS[i % len(THINGS)], SAYINGS[i // len(THINGS) % len(SAYINGS)]
        turns = [("user", saying.format(thing, i)), ("assistant", thing)]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return rows


def write_rows(path: Path, rows: list[Json]) -> Path:
    """The rows as a .jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(base: Path | str, data: Path | str, **sections: Json) -> Json:
    """A short full tuning that ends with a release; `sections` are laid over it."""
    body: Json = {
        "name": "tiny",
        "model": {"base": str(base)},
        "data": {"sources": [{"path": str(data)}], "split": {"validation": 0.2}},
        "tuning": {"kind": "full"},
        "training": {"epochs": 2, "learning_rate": 0.01, "batch_tokens": 256},
        "evaluate": {"max_items": 8, "max_new_tokens": 4},
        "gate": {"rules": ["validation_loss improves"]},
    }
    for name, section in sections.items():
        body[name] = {**body.get(name, {}), **section} if name != "tuning" else section
    return body


def write_recipe(path: Path, body: Json) -> Path:
    """The recipe as a file."""
    path.write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
    return path
