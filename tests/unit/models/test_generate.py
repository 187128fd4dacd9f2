"""Greedy answers are transformers' own, whatever else is in the batch."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import llama, of_config, sizes, tokenizer

from luthier.models.generate import generate

ROOM = 12
PROMPTS = st.lists(st.lists(st.integers(5, 319), min_size=1, max_size=24), min_size=1, max_size=6)


@cache
def model(name: str) -> Any:
    if name == "llama":
        return llama(seed=5)
    if name == "gpt2":  # absolute positions: padding must not shift them
        return of_config(hf.GPT2Config(**(sizes() | {"n_embd": 64, "n_layer": 2, "n_head": 4})), 5)
    window = {"sliding_window": 8}
    if name == "mistral":
        return of_config(hf.MistralConfig(**(sizes() | window)), 5)
    mixed = window | {"layer_types": ["sliding_attention", "full_attention"]}
    return of_config(hf.Gemma2Config(**(sizes() | mixed)), 5)


def theirs(name: str, prompt: list[int], stop: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = model(name).generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=ROOM, eos_token_id=stop
    )
    return [int(token) for token in out[0, len(prompt) :]]


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2"])
@settings(max_examples=12)
@given(prompts=PROMPTS, budget=st.sampled_from([1, 100, 8192]), odd=st.booleans())
def test_answers_are_those_of_transformers_one_by_one(
    name: str, prompts: list[list[int]], budget: int, odd: bool
) -> None:
    stop = list(range(5, 320, 7)) if odd else [4]  # many stops: rows leave the batch at different times
    told: list[int] = []
    answers = generate(
        model(name), tokenizer(), prompts, stop=stop, max_new_tokens=ROOM, batch_tokens=budget, progress=told.append
    )
    assert sum(told) == len(answers) == len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = theirs(name, prompt, stop)
        assert answer.stopped == (expected[-1] in stop)
        assert answer.ids == (expected[:-1] if answer.stopped else expected)
        assert answer.text == tokenizer().decode(answer.ids)


def test_no_prompts_and_no_room() -> None:
    assert generate(model("llama"), tokenizer(), [], stop=[4], max_new_tokens=3) == []
    assert generate(model("llama"), tokenizer(), [[5, 6]], stop=[4], max_new_tokens=0)[0].ids == []
