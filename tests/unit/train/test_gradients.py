"""One update has one gradient: however its rows lie, and as TRL computes it."""

import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import TUNED, chat_rows, random_rows, settings, tuned

from luthier import events
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.tuning import causal_model
from luthier.recipe import Sft as Section
from luthier.text import TokenRows
from luthier.train.forward import Forward, MicroBatch, add_reference, spread
from luthier.train.loop import mean_loss, train
from luthier.train.objectives.sft import Sft
from luthier.train.parallel import Parallel
from luthier.train.rows import join
from luthier.train.source import Settled

ROWS = random_rows([12, 30, 7, 21, 5, 40, 9, 16])


def moved(kind: str) -> Any:
    """A tuned model whose adapters have left zero, so that every part has a gradient."""
    model = tuned(TUNED[kind])
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def of_loss(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def mean(model: Any, rows: TokenRows, numbers: list[int], *, packed: bool) -> torch.Tensor:
    batch = lay_out(rows, numbers, packed=packed)
    return Sft(Section()).loss(model, batch).total / Sft(Section()).units(batch)


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", sorted(TUNED))
def test_packed_and_padded_rows_have_the_same_loss_and_gradient(kind: str) -> None:
    model = moved(kind)
    with attention(causal_model(model), NAME):
        packed, padded = (mean(model, ROWS, list(range(8)), packed=how) for how in (True, False))
        assert packed.item() == pytest.approx(padded.item(), abs=1e-5)
        close(of_loss(model, packed), of_loss(model, padded))


class Watched(torch.optim.SGD):
    """Keeps the gradients that the loop has summed when it makes its update."""

    seen: dict[int, torch.Tensor]

    def step(self, closure: Any = None) -> None:
        self.seen = {id(p): p.grad.clone() for group in self.param_groups for p in group["params"]}


def summed(model: Any, goal: Any, rows: TokenRows, update: Any, folder: Path, **changes: Any) -> Any:
    """The gradients that the loop has summed over the micro-batches of one update, by parameter."""
    optimizer = Watched([{"params": [p for p in model.parameters() if p.requires_grad], "factor": 1.0}], lr=0.0)
    folder.mkdir()
    log, limits = events.Log(folder / "events.jsonl"), settings(clip=1e9, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.train.loop.make_optimizer", lambda *_: optimizer)
        patch.setattr("luthier.train.loop._check_moved", lambda *_: None)
        train(model, goal, Settled(rows, rows, [update]), limits, folder, log)
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[key]: gradient for key, gradient in optimizer.seen.items()}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_one_update_is_the_same_in_one_micro_batch_or_in_unequal_ones(kind: str, packed: bool, tmp_path: Path) -> None:
    cuts = [[list(range(8))], [[0], [1, 2, 3, 6], [4], [5, 7]]]
    found = [
        summed(moved(kind), Sft(Section()), ROWS, update, tmp_path / str(number), packed=packed)
        for number, update in enumerate(cuts)
    ]
    close(*found)


@pytest.mark.parametrize("name", ["sft", "text", "reward", "dpo", "orpo", "kto"])
def test_one_update_is_the_same_for_every_batch_and_accumulation(name: str, tmp_path: Path) -> None:
    """(batch, accumulation) = (8, 1), (4, 2), (1, 8); objectives with rollouts are in `test_policies.py`."""
    goal = tiny.objective(name)
    rows = goal.rows(tiny.rows_for(name, 8))
    found = []
    for batch in (8, 4, 1):
        model, folder = tiny.moved(scores=goal.scores), tmp_path / str(batch)
        known = rows
        if goal.reference:
            forward = Forward(True, 0, torch.float32, torch.device("cpu"))
            known = add_reference(model, rows, forward, 100, Parallel(), tmp_path / "reference", goal.group)
        update = [spread(range(at, at + batch), goal.group) for at in range(0, 8, batch)]
        found.append(summed(model, goal, known, update, folder))
    assert any(gradient.abs().max() > 1e-4 for gradient in found[0].values())
    close(found[0], found[1])
    close(found[0], found[2])


def test_the_validation_loss_is_the_mean_over_tokens_whatever_the_batches() -> None:
    model = moved("full")
    with attention(model, NAME), torch.no_grad():
        expected = mean(model.eval(), ROWS, list(range(8)), packed=False).item()
        for micro in (1, 30, 60, 1000):
            for packed in (True, False):
                forward = Forward(packed, 0, torch.float32, torch.device("cpu"))
                found = mean_loss(MicroBatch(model, Sft(Section())), Sft(Section()), ROWS, forward, micro)
                assert found[0] == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def trl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TRL, kept off the network."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI"):
        monkeypatch.setitem(os.environ, name, "1")
    return pytest.importorskip("trl")


def trl_trainer(trl: Any, model: Any, rows: TokenRows, folder: Path) -> Any:
    from datasets import Dataset
    from tiny import tokenizer

    content = [rows.row(i) for i in range(len(rows))]
    columns = {
        "input_ids": [row.ids for row in content],
        "labels": [[i if t else -100 for i, t in zip(row.ids, row.trained, strict=True)] for row in content],
    }
    asked = trl.SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=len(rows),
        max_length=None,
        report_to="none",
        disable_tqdm=True,
    )
    return trl.SFTTrainer(model, args=asked, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer())


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("packed", [True, False])
def test_loss_and_every_gradient_are_those_of_trl(kind: str, packed: bool, trl: Any, tmp_path: Path) -> None:
    """On the same rows, in float32; TRL's trainer computes its loss by `compute_loss` as in its own training step."""
    rows = join(chat_rows(7), random_rows([40, 11]))
    model = moved(kind)
    with attention(causal_model(model), NAME):
        loss = mean(model, rows, list(range(9)), packed=packed)
        ours = of_loss(model, loss)
    trainer = trl_trainer(trl, moved(kind), rows, tmp_path)
    theirs = trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    assert int((batch["labels"] != -100).sum()) == int(rows.trained_counts.sum())
    expected = trainer.compute_loss(theirs, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    close(ours, of_loss(theirs, expected))
