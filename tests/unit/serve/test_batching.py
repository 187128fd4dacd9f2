"""Who comes and goes changes nobody's answer, whatever the model's attention."""

import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LORA, base, llama, of_config, sizes, tokenizer, tuned

from luthier.models.generate import Sampling, generate
from luthier.models.load import load_model
from luthier.recipe import Prefix, Prompt
from luthier.serve.batching import Answering, Batching, Done, Piece, Question, Served

STOP = (4, *range(5, 320, 7))
PROMPTS = st.lists(st.integers(5, 319), min_size=1, max_size=24)


@cache
def model(name: str) -> Any:
    if name == "llama":
        return llama(seed=5)
    if name == "gpt2":
        return of_config(hf.GPT2Config(**(sizes() | {"n_embd": 64, "n_layer": 2, "n_head": 4})), 5)
    mixed = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return of_config(hf.Gemma2Config(**(sizes() | mixed)), 5)


class Heard:
    """News of one answer."""

    def __init__(self) -> None:
        self.news: list[Any] = []
        self.done = threading.Event()

    def __call__(self, news: Any) -> None:
        self.news.append(news)
        if not isinstance(news, Piece):
            self.done.set()

    def text(self) -> str:
        assert self.done.wait(20), "nobody answered"
        assert isinstance(self.news[-1], Done), self.news[-1]
        return "".join(piece.text for piece in self.news[:-1])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@settings(max_examples=6, deadline=None)
@given(
    asked=st.lists(st.tuples(PROMPTS, st.integers(1, 12), st.sampled_from([0.0, 1.1])), min_size=1, max_size=9),
    most=st.integers(1, 4),
    gap=st.sampled_from([0.0, 0.002]),
)
def test_answers_are_those_that_each_gets_alone(
    name: str, asked: Sequence[tuple[list[int], int, float]], most: int, gap: float
) -> None:
    served = Served(name, model(name), tokenizer(), STOP, 256)
    batching = Batching([served], rows=most)
    heard = [Heard() for _ in asked]
    for k, ((prompt, room, temperature), one) in enumerate(zip(asked, heard, strict=True)):
        batching.ask(name, Question(prompt, room, temperature, 0.9, k, raw=True), one)
        time.sleep(gap)
    for k, ((prompt, room, temperature), one) in enumerate(zip(asked, heard, strict=True)):
        sampling = Sampling(temperature, 0.9, [k])
        right = generate(model(name), tokenizer(), [prompt], stop=STOP, max_new_tokens=room, sampling=sampling)[0]
        assert one.text() == tokenizer().decode(right.ids)
        assert one.news[-1] == Done("stop" if right.stopped else "length", len(right.ids) + right.stopped)
    batching.close()


def test_several_adapters_and_their_base_share_weights(tmp_path: Any) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from luthier.models.adapters import add_adapter, using
    from luthier.models.tuned import adapted, save_tuned
    from luthier.models.tuning import untuned

    for seed in (1, 2):
        save_tuned(tuned(LORA, seed), tokenizer(), base(), tmp_path / str(seed))
        path = tmp_path / str(seed) / "adapter_model.safetensors"
        weights = {
            k: v + 0.02 * (torch.arange(v.numel()) % 7 - 3.0).reshape(v.shape) * seed
            for k, v in load_file(path).items()
        }
        save_file(weights, path)
    shared = adapted(load_model(base(), "float32"), tmp_path / "1")
    add_adapter(shared, tmp_path / "2", "second")
    actives = {
        "one": lambda: using(shared, "default"),
        "two": lambda: using(shared, "second"),
        "base": lambda: untuned(shared),
    }
    batching = Batching([Served(name, shared, tokenizer(), STOP[:1], 256, active) for name, active in actives.items()])
    alone = {
        "one": adapted(load_model(base(), "float32"), tmp_path / "1"),
        "two": adapted(load_model(base(), "float32"), tmp_path / "2"),
        "base": load_model(base(), "float32"),
    }
    prompts = [[5 + i, 9, 33] for i in range(4)]
    heard = {(name, k): Heard() for name in actives for k in range(4)}
    for (name, k), one in heard.items():
        batching.ask(name, Question(prompts[k], 10, raw=True), one)
    texts = {}
    for (name, k), one in heard.items():
        right = generate(alone[name], tokenizer(), [prompts[k]], stop=STOP[:1], max_new_tokens=10)[0]
        texts[name, k] = one.text()
        assert texts[name, k] == tokenizer().decode(right.ids)
    assert texts["one", 0] != texts["two", 0] != texts["base", 0]
    batching.close()


def test_one_who_is_too_much_for_the_model_is_no_harm_to_the_others() -> None:
    batching = Batching([Served("llama", model("llama"), tokenizer(), STOP[:1], 256)])
    good, bad = Heard(), Heard()
    batching.ask("llama", Question([5, 9], 200, raw=True), good)
    batching.ask("llama", Question([100_000], 5), bad)  # there is no such token
    assert bad.done.wait(20)
    assert isinstance(bad.news[-1], Exception)
    assert good.text()
    batching.close()


def test_whoever_gives_up_hears_no_more_and_frees_the_place() -> None:
    batching = Batching([Served("llama", model("llama"), tokenizer(), (400,), 256)], rows=1)
    first, second = Heard(), Heard()
    one: Answering = batching.ask("llama", Question([5, 9], 100_000, raw=True), first)
    while not first.news:
        time.sleep(0.005)
    batching.ask("llama", Question([5, 9], 3, raw=True), second)
    one.cancel()
    assert second.text()
    assert not first.done.is_set()
    batching.close()


@pytest.mark.parametrize("kind", [Prefix(kind="prefix", tokens=3), Prompt(kind="prompt", tokens=3)])
def test_learned_prompts_are_served(kind: Any) -> None:
    model = tuned(kind, 4)
    batching = Batching([Served("tuned", model, tokenizer(), STOP[:1], 256)], rows=3)
    prompts = [[5 + i, 9, *range(33, 33 + i)] for i in range(6)]
    heard = [Heard() for _ in prompts]
    for prompt, one in zip(prompts, heard, strict=True):
        batching.ask("tuned", Question(prompt, 10, raw=True), one)
        time.sleep(0.004)
    plain = load_model(base(), "float32")
    changed = 0
    for prompt, one in zip(prompts, heard, strict=True):
        right = generate(model, tokenizer(), [prompt], stop=STOP[:1], max_new_tokens=10)[0]
        assert one.text() == tokenizer().decode(right.ids)
        changed += right.ids != generate(plain, tokenizer(), [prompt], stop=STOP[:1], max_new_tokens=10)[0].ids
    assert changed
    batching.close()
