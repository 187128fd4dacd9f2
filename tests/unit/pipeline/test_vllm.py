"""Evaluation by vLLM asks the very model, with the same ids and ends; its interface is played by transformers."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from scenes import conversations, make_base, recipe, write_rows
from transformers import AutoModelForCausalLM

from luthier.errors import GateFailed, Missing, RecipeError
from luthier.pipeline import run_recipe
from luthier.runs import Run


class Played:
    """`vllm.LLM` as far as it is used, of a folder and of adapters beside it."""

    seen: tuple[list[Path], list[Any]] = ([], [])

    def __init__(self, folder: str, **settings: Any) -> None:
        self.folder, self.lora = folder, settings.get("enable_lora", False)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.seen[0].append(Path(folder))

    def generate(self, prompts: Any, parameters: Any, lora_request: Any = None, **_: Any) -> list[Any]:
        assert self.lora == (lora_request is not None)
        model = self.model
        if lora_request is not None:
            assert lora_request[:2] not in self.seen[1], "a name would bring the adapter of before"
            self.seen[1].append(lora_request[:2])
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.folder), lora_request[2]).eval()
        return [SimpleNamespace(outputs=[self._one(model, *each)]) for each in zip(prompts, parameters, strict=True)]

    def _one(self, model: Any, prompt: Any, parameters: Any) -> Any:
        ids, ends = torch.tensor([prompt["prompt_token_ids"]]), parameters["stop_token_ids"]
        out = model.generate(ids, do_sample=False, max_new_tokens=parameters["max_tokens"], eos_token_id=ends)
        new = tuple(out[0, ids.shape[1] :].tolist())
        return SimpleNamespace(token_ids=new, finish_reason="stop" if new[-1] in ends else "length", logprobs=None)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(LLM=Played, SamplingParams=lambda **given: given)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.lora", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=lambda *given: given))
    monkeypatch.setattr("luthier.models.vllm.device", lambda: torch.device("cuda"))
    Played.seen = ([], [])


def made(folder: Path, base: Path, sampler: str, tuning: dict[str, Any]) -> Run:
    data = write_rows(folder / "rows.jsonl", conversations(40))
    body = recipe(
        base,
        data,
        tuning=tuning,
        training={"epochs": 12, "learning_rate": 0.01, "batch_tokens": 64},
        evaluate={"retention": [], "tasks": ["exact_match"], "sampler": sampler, "max_new_tokens": 12},
        gate={"rules": ["exact_match improves"]},
    )
    try:
        return run_recipe(body, root=folder / f"runs-{sampler}")
    except GateFailed as error:
        found: Run = error.run
        return found


def answers(run: Run, stage: str = "evaluation") -> list[Any]:
    rows = [json.loads(line) for line in run.artifact(stage).path("answers.jsonl").read_text().splitlines()]
    return [(row["task"], row["item"], row["answer"], row["stopped"]) for row in rows]


@pytest.mark.parametrize(
    "tuning", [{"kind": "full"}, {"kind": "lora", "rank": 4, "rslora": True}], ids=["full", "lora"]
)
@pytest.mark.usefixtures("vllm")
def test_the_answers_are_those_of_the_model_itself(tuning: dict[str, Any], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    theirs, ours = (made(tmp_path, base, sampler, tuning) for sampler in ("vllm", "in_process"))
    folders, adapters = Played.seen
    assert len(folders) == 2, "the base, and the tuned model"
    assert bool(adapters) == (tuning["kind"] == "lora")
    assert not any(folder.exists() for folder in folders if folder != base)
    assert answers(theirs) == answers(ours)
    assert answers(theirs, "baseline") == answers(ours, "baseline") != answers(ours)


@pytest.mark.usefixtures("vllm")
def test_what_vllm_cannot_write_for_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    for tuning, what in (
        ({"kind": "ia3"}, "ia3"),
        ({"kind": "lora", "dora": True}, "DoRA"),
        ({"kind": "qlora", "bits": 8}, "qlora"),
    ):
        with pytest.raises(RecipeError, match=what):
            made(tmp_path, base, "vllm", tuning)
    assert Played.seen[0] == []


def test_without_vllm_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing) as failed:
        made(tmp_path, make_base(tmp_path / "base"), "vllm", {"kind": "full"})
    assert "pip install vllm" in (failed.value.fix or "")
    assert "evaluate.sampler" in str(failed.value)
