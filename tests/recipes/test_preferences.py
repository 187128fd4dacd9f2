"""Pairs through the whole pipeline: curated, learned from, judged on held-out pairs, and released."""

import random
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import luthier
from luthier.errors import GateFailed
from luthier.types import Json

pytestmark = pytest.mark.slow
RULE = {"rules": ["preference improves", "preference at least 0.75"]}


def pairs(count: int) -> list[Json]:
    """Questions with a calm answer and a warm one, equally long."""
    found = []
    for row in scenes.conversations(count):
        asked, answer = (turn["content"] for turn in row["messages"])
        found.append({"prompt": asked, "chosen": f"{answer} calm", "rejected": f"{answer} warm"})
    found.append({"prompt": "The drum 1 is broken.", "chosen": "drum"})  # no rejected answer
    return found


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Json:
    home = tmp_path_factory.mktemp("pairs")
    rows = scenes.write_rows(home / "pairs.jsonl", pairs(120))
    training = {"epochs": 6, "learning_rate": 3e-3, "batch_tokens": 1024}
    base = scenes.make_base(home / "base", hidden=64)
    found = scenes.recipe(base, rows, gate=RULE, training=training, evaluate={"retention": []})
    found["data"]["split"] = {"validation": 0.3}
    return found


@pytest.mark.parametrize(
    ("objective", "tuning"),
    [
        ({"kind": "dpo"}, {"kind": "lora", "rank": 8}),
        ({"kind": "orpo"}, {"kind": "full"}),
        ({"kind": "reward", "centring": 0.01}, {"kind": "full"}),
    ],
    ids=lambda given: given["kind"],
)
def test_pairs_go_all_the_way(objective: Json, tuning: Json, body: Json, tmp_path: Path) -> None:
    run = luthier.run(body | {"objective": objective, "tuning": tuning}, runs=tmp_path / "runs")
    facts = run.artifact("dataset").json("facts.json")
    assert facts["fates"]["kept"] == 120
    assert sum(facts["fates"].values()) == facts["read"] == 121
    before, after = run.metrics["before/preference"], run.metrics["preference"]
    assert after.n == before.n > 20
    assert after.low > before.value
    verdict = run.artifact("verdict").json("verdict.json")
    assert [rule["verdict"] for rule in verdict["rules"]] == ["pass", "pass"]
    model = run.artifact("release").path("model")
    assert prefers(model, objective["kind"] == "reward")
    assert "preference" in (run.folder / "report.html").read_text(encoding="utf-8")


def prefers(folder: Path, scores: bool) -> bool:
    """Whether transformers itself, from the released folder alone, prefers the calm answer to a new question."""
    words: Any = AutoTokenizer.from_pretrained(folder)
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    model: Any = kind.from_pretrained(folder).eval()
    found = []
    for answer in ("lamp calm", "lamp warm"):
        turns = [{"role": "user", "content": "Please replace lamp 777."}, {"role": "assistant", "content": answer}]
        ids = words.apply_chat_template(turns, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            out = model(input_ids=ids).logits
        if scores:
            found.append(out.item())
            continue
        start = len(words.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False))
        logprobs = torch.log_softmax(out[0, start - 1 : -1], -1)
        found.append(logprobs.gather(1, ids[0, start:, None]).sum().item())
    return bool(found[0] > found[1])


def test_a_preference_that_is_not_there_is_not_released(body: Json, tmp_path: Path) -> None:
    """Which of two answers is the chosen one is drawn by chance, so nothing can hold on other pairs."""
    rows, draw = [], random.Random(0)
    for row in pairs(120)[:-1]:
        answers = [row["chosen"], row["rejected"]]
        draw.shuffle(answers)
        rows.append({"prompt": row["prompt"], "chosen": answers[0], "rejected": answers[1]})
    data = body["data"] | {"sources": [{"path": str(scenes.write_rows(tmp_path / "chance.jsonl", rows))}]}
    with pytest.raises(GateFailed, match="preference") as caught:
        luthier.run(body | {"objective": {"kind": "reward"}, "data": data}, runs=tmp_path / "runs")
    assert caught.value.exit_code == 4
    assert caught.value.run.metrics["preference"].high < 0.8
    assert "release" not in caught.value.run.artifacts
