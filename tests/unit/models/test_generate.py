"""Greedy answers are transformers' own, drawn ones have its chances, whatever else is in the batch."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import llama, of_config, sizes, tokenizer

from luthier.models.generate import PLACES, Sampling, generate, places_for
from luthier.models.rows import Rows

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


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
@settings(max_examples=8)
@given(prompts=PROMPTS, common=st.lists(st.integers(5, 319), min_size=17, max_size=40))
def test_a_common_beginning_changes_no_answer(name: str, prompts: list[list[int]], common: list[int]) -> None:
    prompts = [common + prompt for prompt in prompts]
    answers = generate(model(name), tokenizer(), prompts, stop=[4, 5, 6, 7], max_new_tokens=ROOM, batch_tokens=200)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = theirs(name, prompt, [4, 5, 6, 7])
        assert answer.ids == (expected[:-1] if answer.stopped else expected)


def test_drawn_tokens_have_the_chances_of_the_nucleus() -> None:
    prompt, temperature, top_p = [5, 9, 33], 1.4, 0.6
    with torch.no_grad():
        logits = model("llama")(torch.tensor([prompt])).logits[0, -1].double()
    shares, order = torch.softmax(logits / temperature, 0).sort(descending=True)
    inside = int((shares.cumsum(0) < top_p).sum()) + 1
    expected = {int(i): float(p / shares[:inside].sum()) for i, p in zip(order[:inside], shares, strict=False)}
    drawn = Sampling(temperature, top_p, seeds=range(3000))
    found = [
        a.ids[0]
        for a in generate(model("llama"), tokenizer(), [prompt] * 3000, stop=[400], max_new_tokens=1, sampling=drawn)
    ]
    assert set(found) <= set(expected)
    for token, share in list(expected.items())[:5]:
        assert abs(np.mean([f == token for f in found]) - share) < 4.5 * np.sqrt(share * (1 - share) / 3000)


def test_a_drawn_answer_depends_on_its_seed_alone() -> None:
    prompts = [[5 + i, 9, 33] for i in range(6)]
    seeds = [7 * i for i in range(6)]
    together = generate(
        model("llama"), tokenizer(), prompts, stop=[4], max_new_tokens=8, sampling=Sampling(1.0, 0.9, seeds)
    )
    for i in range(6):
        alone = generate(
            model("llama"),
            tokenizer(),
            [prompts[i]],
            stop=[4],
            max_new_tokens=8,
            sampling=Sampling(1.0, 0.9, [seeds[i]]),
        )
        assert alone[0].ids == together[i].ids


def test_a_text_ends_an_answer_and_is_cut_off() -> None:
    free = generate(model("llama"), tokenizer(), [[5, 9]], stop=[400], max_new_tokens=40)[0]
    end = free.text[6:8]
    cut = generate(
        model("llama"), tokenizer(), [[5, 9]], stop=[400], max_new_tokens=40, sampling=Sampling(stop_texts=[end])
    )[0]
    assert cut.text == free.text[: free.text.find(end)]
    assert cut.stopped
    assert len(cut.ids) < 40


def test_free_places_are_taken_before_the_longest_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    feed = Rows.feed

    def counted(self: Rows, tokens: torch.Tensor) -> None:
        fed.append(len(tokens))
        feed(self, tokens)

    monkeypatch.setattr(Rows, "feed", counted)
    room, prompts = 60, [[5 + i, 9, 33] for i in range(32)]
    stop = list(range(5, 320, 9))
    most = 8
    answers = generate(
        model("llama"), tokenizer(), prompts, stop=stop, max_new_tokens=room, batch_tokens=most * (room + 3)
    )
    lengths = [len(a.ids) + a.stopped for a in answers]
    assert max(fed) <= most
    in_turn = sum(max(lengths[k : k + most]) for k in range(0, len(lengths), most))  # each batch waits for its longest
    least = max(max(lengths), sum(lengths) / most)
    assert len(fed) < (in_turn + least) / 2


def test_on_a_gpu_half_of_the_free_memory_holds_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(num_attention_heads=32, hidden_size=4096, num_key_value_heads=8, num_hidden_layers=32)
    config.get_text_config = lambda: config
    causal = SimpleNamespace(config=config, dtype=torch.bfloat16)
    causal.parameters = lambda: iter([SimpleNamespace(device=torch.device("cuda"))])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40 << 30, 80 << 30))
    assert places_for(causal) == (20 << 30) // (128 << 10)  # Llama 3.1 8B: 128 KiB of keys and values a token
    assert places_for(model("llama")) == PLACES
