"""Tiny models, tokenizers and rows, made on the spot: what the tests of text, models and training share."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from luthier import events
from luthier.models.base import Base
from luthier.models.load import load_model
from luthier.models.tuning import quantisation, tune
from luthier.recipe import Full, Lora, Qlora, Tuning
from luthier.recipe import Objective as Section
from luthier.text import TokenRows, interleave, render, render_pair, render_prompt, save_rows
from luthier.text.render import TrainingRow
from luthier.text.rows import gather
from luthier.train.batches import Update, schedule
from luthier.train.loop import LoopSettings
from luthier.train.objectives import OBJECTIVES
from luthier.types import Message, Pair

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' </s>' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '</s>' + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "zephyr": ZEPHYR}
ENDS = {"chatml": "<|im_end|>", "llama2": "</s>", "zephyr": "</s>"}
TEXT = [
    "What is the sum of one and two? It is three.",
    "Name the colour of the sky: blue. The user asked.",
    "0123456789",
]
HIDDEN = 64  # the least that 4-bit layers take


@cache
def tokenizer(template: str = "chatml") -> Any:
    """A byte-level BPE of 320 tokens with one of the templates."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    controls = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=controls, min_frequency=1)
    inner.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token=ENDS[template],
        pad_token="<pad>",
        additional_special_tokens=controls[1:],
    )
    fast.chat_template = TEMPLATES[template]
    return fast


def stop() -> int:
    """The id that ends an answer in the ChatML-like template."""
    return int(tokenizer().convert_tokens_to_ids("<|im_end|>"))


def llama(seed: int = 0, **settings: Any) -> Any:
    """Two layers of grouped-query attention, in float32; `settings` change its config."""
    model = of_config(LlamaConfig(**(sizes() | settings)), seed)
    with torch.no_grad():
        model.model.norm.weight.fill_(4.0)  # or a frozen head of this size could not say anything for certain
    return model


def sizes() -> dict[str, Any]:
    """The config values that every family here shares."""
    return {
        "vocab_size": 320,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HIDDEN // 4,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 4,
        "tie_word_embeddings": True,
    }


def of_config(config: Any, seed: int = 0) -> Any:
    """A model of a config with random weights, large enough that logits differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@cache
def base(tied: bool = True) -> Base:
    """The tiny Llama on disk with its tokenizer."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    llama(tie_word_embeddings=tied).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return Base("tiny", folder, None, trust_remote_code=False)


LORA = Lora(kind="lora", rank=8, alpha=16.0)
QLORA = Qlora(kind="qlora", rank=8, alpha=16.0)
TUNED: dict[str, Tuning] = {"full": Full(kind="full"), "lora": LORA, "qlora": QLORA}


def tuned(tuning: Tuning, seed: int = 1) -> Any:
    """The tiny base, loaded and made trainable."""
    return tune(load_model(base(), "float32", quantise=quantisation(tuning)), tuning, seed)


def conversations(count: int) -> list[list[Message]]:
    """Short questions, each with an answer of its own."""
    words = ["red", "green", "blue", "seven", "one", "none", "a cat", "two dogs"]
    return [
        [Message("user", f"{i}?"), Message("assistant", f"{words[i % 8]} {(i * 37) % 100}{'!' * (i % 3)}")]
        for i in range(count)
    ]


def chat_rows(count: int) -> TokenRows:
    """These conversations as token rows."""
    return gather([row for messages in conversations(count) for row in render(messages, tokenizer())])


def prompts(count: int) -> list[list[int]]:
    """Their generation prompts."""
    return [render_prompt(messages[:-1], tokenizer()) for messages in conversations(count)]


def random_rows(lengths: Sequence[int], seed: int = 0) -> TokenRows:
    """Rows of random ids of these lengths, about two tokens in three trained and the last one always."""
    source = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        trained = source.random(length) < 2 / 3
        trained[0], trained[-1] = False, length > 1
        rows.append(TrainingRow(source.integers(5, 320, length).tolist(), trained.tolist()))
    return gather(rows)


def plan(rows: TokenRows, *, epochs: float = 1.0, batch: int = 128, micro: int = 64, seed: int = 0) -> list[Update]:
    """A schedule over all rows."""
    return schedule(
        rows.lengths.tolist(),
        rows.trained_counts.tolist(),
        own=len(rows),
        replay_share=0.0,
        epochs=epochs,
        batch_tokens=batch,
        micro_tokens=micro,
        seed=seed,
    )


def settings(**changes: Any) -> LoopSettings:
    """Loop settings for a short run."""
    values: dict[str, Any] = {
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup": 0.1,
        "weight_decay": 0.01,
        "clip": 1.0,
        "validate_every": 1000,
        "checkpoint_every": 1000,
        "patience": 1000,
        "packed": True,
        "micro_tokens": 64,
        "compute": torch.float32,
        "pad": 0,
        "seed": 3,
    }
    return LoopSettings(**(values | changes))


def seen(log: events.Log, kind: type[Any]) -> list[Any]:
    """The events of one kind that a log holds."""
    return [event for _, event in events.read(log.path) if isinstance(event, kind)]


def pair_rows(count: int) -> TokenRows:
    """Pairs: the answer of each conversation before that of another, with margins of 0 and 1."""
    talks = conversations(count + 3)
    pairs = [Pair("x", i, tuple(talks[i][:-1]), (talks[i][-1],), (talks[i + 3][-1],)) for i in range(count)]
    return gather(
        interleave([render_pair(pair, tokenizer()) for pair in pairs]), [float(i % 4 == 0) for i in range(2 * count)]
    )


def rated_rows(count: int) -> TokenRows:
    """Conversations with verdicts, every second one unwanted."""
    return replace(chat_rows(count), ratings=np.resize(np.float32([1, -1]), count))


def rows_for(objective: str, count: int = 6) -> TokenRows:
    """Rows that an objective reads."""
    kind = TypeAdapter(Section).validate_python({"kind": objective}).rows
    return {"pairs": pair_rows, "ratings": rated_rows, "examples": chat_rows}[kind](count)


def objective(kind: str, **settings: Any) -> Any:
    """An objective, as the stage makes it from the recipe."""
    return OBJECTIVES[kind](TypeAdapter(Section).validate_python({"kind": kind, **settings}))


def save_encoder(folder: Path) -> None:
    """A random BERT of two layers, with a tokenizer, as a folder that an encoder is loaded from."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=48,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def save_classifier(folder: Path, labels: Sequence[str], positions: int = 48) -> None:
    """A random BERT that tells labels apart, with a tokenizer, as a folder that it is loaded from."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=positions, id2label=dict(enumerate(labels)),
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


PLAN: dict[str, Any] = {
    "dtype": "float32",
    "packing": True,
    "batch_tokens": 100,
    "micro_batch_tokens": 60,
    "learning_rate": 5e-3,
    "recompute": 0,
    "cheap": 0,
    "processes": 1,
    "parallel": "one",
    "memory": {"total": 10**9},
    "memory_available": 10**10,
}


def save(path: Path, rows: TokenRows) -> None:
    """Rows as a file."""
    save_rows(path, [rows.row(i) for i in range(len(rows))], None if rows.ratings is None else rows.ratings.tolist())


def moved(scores: bool = False, seed: int = 4) -> Any:
    """A LoRA model that has left its beginning, so that the reference is another one."""
    model = tune(load_model(base(), "float32", scores=scores), Lora(kind="lora", rank=4), 1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.03)
    return model.eval()


def row_sums(model: Any, rows: TokenRows) -> Any:
    """Log-probability of each row's trained tokens, from the model's own logits in float64."""
    found = []
    for i in range(len(rows)):
        row = rows.row(i)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)
        found.append(sum(logprobs[k - 1, row.ids[k]].item() for k in range(1, len(row.ids)) if row.trained[k]))
    return np.array(found)
