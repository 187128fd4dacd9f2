"""Each tuning learns what it is shown, word for word, and touches nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import chat_rows, conversations, plan, prompts, seen, settings, stop, tokenizer, tuned

from luthier import events
from luthier.models.generate import generate
from luthier.recipe import Full, Lora, Qlora, Sft, Tuning
from luthier.train.check import check_head
from luthier.train.loop import train
from luthier.train.objectives import OBJECTIVES
from luthier.train.source import Settled

ROWS = chat_rows(32)


def learn(tuning: Tuning, rate: float, folder: Path) -> None:
    model = tuned(tuning)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert check_head(model, ROWS, packed=True, compute=torch.float32) < 1e-4
    updates = plan(ROWS, epochs=50, batch=256, micro=256)
    log = events.Log(folder / "events.jsonl")
    limits = settings(learning_rate=rate, validate_every=len(updates), micro_tokens=256)
    outcome = train(model, OBJECTIVES["sft"](Sft()), Settled(ROWS, ROWS, updates), limits, folder, log)
    steps = seen(log, events.Step)
    assert [step.step for step in steps] == list(range(1, len(updates) + 1))
    assert steps[0].loss > 3
    assert outcome.best_loss < 0.05
    answers = generate(model, tokenizer(), prompts(32), stop=[stop()], max_new_tokens=20)
    assert [answer.text for answer in answers] == [talk[-1].content for talk in conversations(32)]
    assert all(answer.stopped for answer in answers)
    after: dict[str, Any] = dict(model.named_parameters())
    assert all(torch.equal(after[name], before) for name, before in frozen.items())


@pytest.mark.proves("full", "sft")
def test_full_tuning_learns_the_answers(tmp_path: Path) -> None:
    learn(Full(kind="full"), 3e-3, tmp_path)


@pytest.mark.proves("lora", "sft")
def test_lora_learns_the_answers(tmp_path: Path) -> None:
    learn(Lora(kind="lora", rank=32, alpha=64), 1e-2, tmp_path)


@pytest.mark.proves("qlora", "sft")
def test_qlora_learns_the_answers(tmp_path: Path) -> None:
    learn(Qlora(kind="qlora", rank=32, alpha=64), 1e-2, tmp_path)
