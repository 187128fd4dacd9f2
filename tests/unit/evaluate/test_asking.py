"""Asking: likelihoods are lm-evaluation-harness's, packing changes nothing, nothing is asked twice."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import base, conversations, llama, of_config, sizes, stop, tokenizer

from luthier.evaluate.asking import Candidate, ask, choices_of, prompt_ids, said
from luthier.evaluate.cache import Memory
from luthier.evaluate.items import Decoding, Item, Task
from luthier.evaluate.likelihood import branch_logprobs
from luthier.evaluate.marking import summarise
from luthier.evaluate.scorers import exact_match
from luthier.evaluate.summaries import perplexity
from luthier.evaluate.trees import Branches
from luthier.types import Message

QUESTIONS = [f"Question {i}: which is {i * 7 % 13}?\nAnswer:" for i in range(24)]
CHOICES = [("a red cat", "no", "seven dogs and one", "blue!"), ("A", "B", "C", "D")]


@cache
def of_family(name: str) -> Any:
    """Models that see freely, have absolute positions, a window, or both."""
    if name == "llama":
        return model()
    if name == "gpt2":
        return of_config(hf.GPT2Config(**(sizes() | {"n_embd": 64, "n_layer": 2, "n_head": 4})), 5)
    window = {"sliding_window": 8}
    if name == "mistral":
        return of_config(hf.MistralConfig(**(sizes() | window)), 5)
    return of_config(
        hf.Gemma2Config(**(sizes() | window | {"layer_types": ["sliding_attention", "full_attention"]})), 5
    )


@cache
def model() -> Any:
    return llama(seed=3)


def candidate(**settings: Any) -> Candidate:
    return Candidate(model(), tokenizer(), [stop()], **settings)


def choosing(choices: tuple[str, ...]) -> Task:
    items = tuple(
        Item(str(i), text=question, expected=choices[i % 4], choices=choices) for i, question in enumerate(QUESTIONS)
    )
    return Task("mc", items, kind="choose")


def writing(**settings: Any) -> Task:
    items = tuple(Item(str(i), tuple(c[:-1]), c[-1].content) for i, c in enumerate(conversations(20)))
    return Task("write", items, exact_match, decoding=Decoding(max_new_tokens=6, **settings))


@pytest.mark.parametrize("choices", CHOICES, ids=["several tokens", "one token"])
def test_choices_score_as_in_lm_evaluation_harness(choices: tuple[str, ...], tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    rows = [{"q": q, "choices": list(choices), "gold": i % 4} for i, q in enumerate(QUESTIONS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": "mc",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    lm = HFLM(pretrained=model(), tokenizer=tokenizer(), batch_size=4, device="cpu")
    task = ConfigurableTask(config=config)
    theirs = simple_evaluate(lm, tasks=[task], bootstrap_iters=0, log_samples=True)
    ours = said(candidate(), choosing(choices))
    for sample in theirs["samples"]["mc"]:
        values = [float(response[0]) for response in sample["filtered_resps"]]
        assert ours[sample["doc_id"]][0]["logprobs"] == pytest.approx(values, abs=1e-4)
    found = {m.name: m.value for m in summarise(choosing(choices), ask(candidate(), choosing(choices)))}
    assert found["mc"] == pytest.approx(theirs["results"]["mc"]["acc,none"], abs=1e-6)
    assert found["mc.acc_norm"] == pytest.approx(theirs["results"]["mc"]["acc_norm,none"], abs=1e-6)


LENGTHS = st.tuples(st.integers(1, 30), st.lists(st.integers(1, 6), min_size=2, max_size=5))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2"])
@settings(max_examples=15)
@given(st.lists(LENGTHS, min_size=1, max_size=6), st.integers(0, 20), st.integers(0, 99), st.booleans())
def test_choices_of_one_item_read_together_score_as_if_alone(
    name: str, lengths: list[tuple[int, list[int]]], common: int, seed: int, packed: bool
) -> None:
    draw = random.Random(seed)
    drawn = lambda n: [draw.randrange(5, 320) for _ in range(n)]  # noqa: E731
    first = drawn(common)
    items = [Branches(first + drawn(n), [drawn(k) for k in ends]) for n, ends in lengths]
    found = branch_logprobs(of_family(name), items, packed=packed, budget=150)
    for item, row in zip(items, found, strict=True):
        for end, value in zip(item.ends, row, strict=True):
            with torch.no_grad():
                logits = of_family(name)(torch.tensor([item.start + end])).logits[0].double()
            logprobs = torch.log_softmax(logits, -1)[len(item.start) - 1 : -1]
            expected = logprobs.gather(1, torch.tensor(end)[:, None]).sum()
            assert value == pytest.approx(float(expected), abs=2e-3)


def test_the_likelihood_of_a_long_text_counts_each_token_once() -> None:
    text = " ".join(f"word {i} of many;" for i in range(90))
    task = Task("text", (Item("long", text="", expected=text),), kind="likelihood", summarise=perplexity)
    (answer,) = ask(candidate(), task)
    ids = [tokenizer().bos_token_id, *tokenizer()(text, add_special_tokens=False).input_ids]
    assert len(ids) > 2 * candidate().window
    assert answer.parts["tokens"] == len(ids) - 1
    total = 0.0
    for start in range(0, len(ids) - 1, candidate().window - 1):
        piece = torch.tensor([ids[start : start + candidate().window]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model()(piece).logits[0].double(), -1)
        total -= float(logprobs[:-1].gather(1, piece[0, 1:, None]).sum())
    assert answer.parts["nats"] == pytest.approx(total, rel=1e-5)


def test_nothing_is_asked_twice_and_a_torn_line_is_asked_again(tmp_path: Path, monkeypatch: Any) -> None:
    first = ask(candidate(memory=Memory(tmp_path, "m")), writing())
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    file.write_text(text[: len(text) - 30])  # a crash amid the last line
    prompts: list[int] = []
    import luthier.evaluate.asking as module

    real = module.generate
    monkeypatch.setattr(module, "generate", lambda *a, **k: (prompts.append(len(a[2])), real(*a, **k))[1])
    told: list[int] = []
    again = ask(candidate(memory=Memory(tmp_path, "m")), writing(), told.append)
    assert again == first
    assert prompts == [1]
    assert sum(told) == 20
    assert ask(candidate(memory=Memory(tmp_path, "m")), writing()) == first
    assert prompts == [1], "what was asked again is remembered although it follows a torn line"
    ask(candidate(memory=Memory(tmp_path, "another model")), writing())
    ask(candidate(memory=Memory(tmp_path, "m")), writing(seed=1))
    assert prompts == [1, 20, 20], "another model or decoding is asked itself"


def test_samples_differ_and_come_again_with_their_seed() -> None:
    drawn = writing(temperature=1.5, samples=3)
    answers = ask(candidate(), drawn)
    assert len(answers) == 60
    assert [a.sample for a in answers[:3]] == [0, 1, 2]
    assert len({a.answer for a in answers[:30]}) > 10
    assert ask(candidate(), drawn) == answers


def test_a_prompt_without_room_is_not_cut_but_counted() -> None:
    long = Item("long", (Message("user", "word " * 300),), "x")
    task = Task("t", (long, *writing().items), exact_match, decoding=Decoding(max_new_tokens=4))
    answers = ask(candidate(), task)
    assert answers[0].outcome == "failed"
    (metric,) = summarise(task, answers)
    assert (metric.n, metric.failed) == (20, 1)


def test_after_a_chat_template_the_choice_begins_anew() -> None:
    item = Item("1", (Message("user", "hi"),), "one", choices=("one", "two dogs"))
    start = prompt_ids(item, tokenizer())
    (found,) = choices_of([item], tokenizer())
    assert found.start == start
    assert [tokenizer().decode(end) for end in found.ends] == list(item.choices)


def test_an_adapter_is_asked_as_it_is() -> None:
    from tiny import LORA, tuned

    adapted = tuned(LORA)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    with_adapter = said(Candidate(adapted, tokenizer(), [stop()]), choosing(CHOICES[0]))
    merged = said(Candidate(adapted.merge_and_unload(), tokenizer(), [stop()]), choosing(CHOICES[0]))
    from luthier.models.load import load_model

    plain = said(Candidate(load_model(base(), "float32"), tokenizer(), [stop()]), choosing(CHOICES[0]))
    for one, two, three in zip(with_adapter, merged, plain, strict=True):
        assert one[0]["logprobs"] == pytest.approx(two[0]["logprobs"], abs=1e-3)
        assert one[0]["logprobs"] != pytest.approx(three[0]["logprobs"], abs=1e-2)
