"""Tasks of lm-evaluation-harness through Luthier's asking: the harness's own results, item by item."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import llama, stop, tokenizer

from luthier.errors import RecipeError
from luthier.evaluate.asking import Candidate
from luthier.evaluate.harness import ask_harness


def made(folder: Path, name: str, **config: Any) -> Any:
    from lm_eval.api.task import ConfigurableTask

    rows = [
        {
            "q": f"Question {i}: {i * 7 % 13}?\nAnswer:",
            "choices": ["a red cat", "no", "blue"],
            "gold": i % 3,
            "text": "a cat is a cat " * (1 + i),
        }
        for i in range(6)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder)},
        "test_split": "test",
    }
    return ConfigurableTask(config=shared | config)


def test_results_are_the_harnesss_own(tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    choosing = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    writing = {
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    tasks = lambda: [made(tmp_path, "choosing", **choosing), made(tmp_path, "writing", **writing)]  # noqa: E731
    model = llama(seed=3)
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer(), batch_size=2, device="cpu"),
        tasks=tasks(),
        bootstrap_iters=0,
        log_samples=True,
    )["samples"]
    ours = ask_harness(Candidate(model, tokenizer(), [stop()]), tasks())
    assert ours.keys() == theirs.keys()
    for sample, answer in zip(theirs["choosing"], ours["choosing"], strict=True):
        assert answer.item == str(sample["doc_id"])
        assert dict(answer.parts) == {"acc": sample["acc"], "acc_norm": sample["acc_norm"]}
        assert answer.score == sample["acc"]
    for sample, answer in zip(theirs["writing"], ours["writing"], strict=True):
        assert answer.answer == sample["filtered_resps"][0]


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(RecipeError, match="has no task not_there_at_all"):
        ask_harness(Candidate(llama(), tokenizer(), [stop()]), ["not_there_at_all"])
