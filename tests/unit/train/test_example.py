"""`examples/sft_loop.py` is the same training: its losses are those of the loop, from rows it tokenises itself."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import base, chat_rows, conversations, plan, seen, settings, tokenizer, tuned

from luthier import events
from luthier.recipe import Full, Lora
from luthier.recipe import Sft as Section
from luthier.train.loop import train
from luthier.train.objectives.sft import Sft
from luthier.train.source import Settled

PATH = Path(__file__).resolve().parents[3] / "examples" / "sft_loop.py"
COUNT = 12


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("sft_loop", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"messages": [asdict(turn) for turn in talk]} for talk in conversations(COUNT)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_it_shares_no_code_with_the_package() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert "import luthier" not in text
    assert "from luthier" not in text
    assert len(text.splitlines()) <= 170


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_losses_and_weights_are_those_of_the_loop(kind: str, example: Any, file: Path, tmp_path: Path) -> None:
    tuning = {"full": Full(kind="full"), "lora": Lora(kind="lora", rank=8)}[kind]
    rows = chat_rows(COUNT)
    theirs = example.read_rows(file, tokenizer(), tokenizer().eos_token_id)
    assert theirs == [
        (row.ids, [i if t else example.IGNORED for i, t in zip(row.ids, row.trained, strict=True)])
        for row in map(rows.row, range(COUNT))
    ]
    updates = plan(rows, epochs=4, batch=100, micro=60)
    assert any(len(update) > 1 for update in updates)
    model, other = tuned(tuning), tuned(tuning)
    log = events.Log(tmp_path / "events.jsonl")
    train(model, Sft(Section()), Settled(rows, rows, updates), settings(), tmp_path, log)
    order = [[i for group in update for i in group] for update in updates]
    losses = example.train(other, theirs, order, 3e-3)
    steps = seen(log, events.Step)
    assert losses == pytest.approx([step.loss for step in steps], rel=1e-4)
    assert losses[-1] < losses[0] / 2
    rates = [example.rate(step, len(updates), 3e-3, 0.1) for step in range(len(updates))]
    assert rates == [step.learning_rate for step in steps]
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-4


def test_it_runs_from_the_command_line(
    example: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["sft_loop.py", str(base().folder), str(file), str(out), "--epochs", "2"])
    example.main()
    assert capsys.readouterr().out.startswith("12 rows, 4 updates, loss ")
    assert (out / "adapter_model.safetensors").exists()


def test_it_stops_when_the_loss_is_no_number(example: Any, file: Path) -> None:
    model = tuned(Full(kind="full"))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    rows = example.read_rows(file, tokenizer(), tokenizer().eos_token_id)
    with pytest.raises(RuntimeError, match="update 1: loss nan"):
        example.train(model, rows, [[0]], 1e-3)
