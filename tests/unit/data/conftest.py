"""A tiny tokenizer with a template of its own, and a short way to curate rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.data import curate
from luthier.recipe import build_recipe

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token a byte, and a chat template like ChatML."""
    vocabulary = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    fast.chat_template = TEMPLATE
    return fast


class Bench:
    """Writes rows to `rows.jsonl` in a folder and curates them into `out`."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.folder, self.tokenizer, self.out = folder, tokenizer, folder / "out"
        self.out.mkdir()

    def write(self, *rows: Any, name: str = "rows.jsonl") -> None:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (self.folder / name).write_bytes(b"\n".join(lines) + b"\n")

    def curate(self, *rows: Any, context: int = 1000, paths: tuple[str, ...] = ("rows.jsonl",), **data: Any) -> Any:
        if rows:
            self.write(*rows)
        verdicts = data.pop("verdicts", {})
        sources = data.pop("sources", [{"path": path} for path in paths])
        more = {name: data.pop(name) for name in ("seed", "objective") if name in data}
        memory = data.pop("memory", None)
        recipe = build_recipe({"name": "t", **more, "data": {"sources": sources, "max_rejected": 1.0, **data}})
        return curate(recipe, self.folder, self.tokenizer, context, self.out, verdicts=verdicts, memory=memory)

    def lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.out / name).read_text(encoding="utf-8").split("\n")[:-1]]

    @property
    def ledger(self) -> list[Any]:
        return self.lines("ledger.jsonl")


@pytest.fixture
def bench(tmp_path: Path, tokenizer: Any) -> Bench:
    return Bench(tmp_path, tokenizer)


@pytest.fixture
def asked() -> Callable[[int], list[dict[str, str]]]:
    """So many good rows, each with a prompt of its own."""
    return lambda count: [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(count)]
