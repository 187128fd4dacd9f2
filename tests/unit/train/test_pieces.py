"""Every tuning with every objective: it learns, leaves alone what is frozen, is saved, and goes on after a death."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from tiny import base, objective, rows_for, seen, settings, tokenizer

from luthier import events
from luthier.models.attention import NAME, attention
from luthier.models.load import load_model
from luthier.models.tuned import load_tuned, save_tuned
from luthier.models.tuning import causal_model, quantisation, tune
from luthier.recipe import Tuning
from luthier.text import TokenRows
from luthier.train.forward import Forward, MicroBatch, add_reference, spread
from luthier.train.loop import Outcome, mean_loss, train
from luthier.train.parallel import Parallel
from luthier.train.source import Settled

TUNINGS: dict[str, tuple[dict[str, Any], float]] = {
    "full": ({}, 1e-3),
    "freeze": ({"blocks": 1}, 3e-3),
    "lora": ({"rank": 4, "dropout": 0.1}, 1e-2),
    "qlora": ({"rank": 4}, 1e-2),
    "prefix": ({"tokens": 4}, 3e-2),
    "prompt": ({"tokens": 4}, 3e-2),
    "p-tuning": ({"tokens": 4, "width": 16}, 1e-2),
    "adapter": ({"width": 8}, 1e-2),
    "ia3": ({}, 3e-2),
}
"""Tuning -> its settings and a rate."""
PAIRS = [
    pytest.param("full", "sft", marks=pytest.mark.proves("full", "sft")),
    pytest.param("full", "text", marks=pytest.mark.proves("full", "text")),
    pytest.param("full", "reward", marks=pytest.mark.proves("full", "reward")),
    pytest.param("full", "dpo", marks=pytest.mark.proves("full", "dpo")),
    pytest.param("full", "orpo", marks=pytest.mark.proves("full", "orpo")),
    pytest.param("full", "kto", marks=pytest.mark.proves("full", "kto")),
    pytest.param("freeze", "sft", marks=pytest.mark.proves("freeze", "sft")),
    pytest.param("freeze", "text", marks=pytest.mark.proves("freeze", "text")),
    pytest.param("freeze", "reward", marks=pytest.mark.proves("freeze", "reward")),
    pytest.param("freeze", "dpo", marks=pytest.mark.proves("freeze", "dpo")),
    pytest.param("freeze", "orpo", marks=pytest.mark.proves("freeze", "orpo")),
    pytest.param("freeze", "kto", marks=pytest.mark.proves("freeze", "kto")),
    pytest.param("lora", "sft", marks=pytest.mark.proves("lora", "sft")),
    pytest.param("lora", "text", marks=pytest.mark.proves("lora", "text")),
    pytest.param("lora", "reward", marks=pytest.mark.proves("lora", "reward")),
    pytest.param("lora", "dpo", marks=pytest.mark.proves("lora", "dpo")),
    pytest.param("lora", "orpo", marks=pytest.mark.proves("lora", "orpo")),
    pytest.param("lora", "kto", marks=pytest.mark.proves("lora", "kto")),
    pytest.param("qlora", "sft", marks=pytest.mark.proves("qlora", "sft")),
    pytest.param("qlora", "text", marks=pytest.mark.proves("qlora", "text")),
    pytest.param("qlora", "reward", marks=pytest.mark.proves("qlora", "reward")),
    pytest.param("qlora", "dpo", marks=pytest.mark.proves("qlora", "dpo")),
    pytest.param("qlora", "orpo", marks=pytest.mark.proves("qlora", "orpo")),
    pytest.param("qlora", "kto", marks=pytest.mark.proves("qlora", "kto")),
    pytest.param("prefix", "sft", marks=pytest.mark.proves("prefix", "sft")),
    pytest.param("prefix", "text", marks=pytest.mark.proves("prefix", "text")),
    pytest.param("prefix", "reward", marks=pytest.mark.proves("prefix", "reward")),
    pytest.param("prefix", "dpo", marks=pytest.mark.proves("prefix", "dpo")),
    pytest.param("prefix", "orpo", marks=pytest.mark.proves("prefix", "orpo")),
    pytest.param("prefix", "kto", marks=pytest.mark.proves("prefix", "kto")),
    pytest.param("prompt", "sft", marks=pytest.mark.proves("prompt", "sft")),
    pytest.param("prompt", "text", marks=pytest.mark.proves("prompt", "text")),
    pytest.param("prompt", "reward", marks=pytest.mark.proves("prompt", "reward")),
    pytest.param("prompt", "dpo", marks=pytest.mark.proves("prompt", "dpo")),
    pytest.param("prompt", "orpo", marks=pytest.mark.proves("prompt", "orpo")),
    pytest.param("prompt", "kto", marks=pytest.mark.proves("prompt", "kto")),
    pytest.param("p-tuning", "sft", marks=pytest.mark.proves("p-tuning", "sft")),
    pytest.param("p-tuning", "text", marks=pytest.mark.proves("p-tuning", "text")),
    pytest.param("p-tuning", "reward", marks=pytest.mark.proves("p-tuning", "reward")),
    pytest.param("p-tuning", "dpo", marks=pytest.mark.proves("p-tuning", "dpo")),
    pytest.param("p-tuning", "orpo", marks=pytest.mark.proves("p-tuning", "orpo")),
    pytest.param("p-tuning", "kto", marks=pytest.mark.proves("p-tuning", "kto")),
    pytest.param("adapter", "sft", marks=pytest.mark.proves("adapter", "sft")),
    pytest.param("adapter", "text", marks=pytest.mark.proves("adapter", "text")),
    pytest.param("adapter", "reward", marks=pytest.mark.proves("adapter", "reward")),
    pytest.param("adapter", "dpo", marks=pytest.mark.proves("adapter", "dpo")),
    pytest.param("adapter", "orpo", marks=pytest.mark.proves("adapter", "orpo")),
    pytest.param("adapter", "kto", marks=pytest.mark.proves("adapter", "kto")),
    pytest.param("ia3", "sft", marks=pytest.mark.proves("ia3", "sft")),
    pytest.param("ia3", "text", marks=pytest.mark.proves("ia3", "text")),
    pytest.param("ia3", "reward", marks=pytest.mark.proves("ia3", "reward")),
    pytest.param("ia3", "dpo", marks=pytest.mark.proves("ia3", "dpo")),
    pytest.param("ia3", "orpo", marks=pytest.mark.proves("ia3", "orpo")),
    pytest.param("ia3", "kto", marks=pytest.mark.proves("ia3", "kto")),
]
EPOCHS, DEATH, EVERY = 6, 5, 2
PLACE = torch.device("cpu")


class Death(BaseException):
    """The process ends here."""


def section(kind: str) -> Any:
    return TypeAdapter(Tuning).validate_python({"kind": kind, **TUNINGS[kind][0]})


def fresh(kind: str, goal: Any) -> Any:
    return tune(
        load_model(base(), "float32", quantise=quantisation(section(kind)), scores=goal.scores), section(kind), 1
    )


def go(kind: str, model: Any, goal: Any, rows: TokenRows, folder: Path, on_step: Any = lambda _: None) -> Outcome:
    """The loop on all rows, each update over all of them in several micro-batches."""
    folder.mkdir(exist_ok=True)
    if goal.reference:
        forward = Forward(True, 0, torch.float32, PLACE)
        rows = add_reference(model, rows, forward, 64, Parallel(), folder / "reference.safetensors")
    limits = settings(learning_rate=TUNINGS[kind][1], warmup=0.0, checkpoint_every=EVERY, validate_every=EVERY)
    count = len(rows) // goal.group
    micro = [spread(range(start, count, 2), goal.group) for start in (0, 1)]
    whole = [micro] * EPOCHS
    log = events.Log(folder / "events.jsonl")
    return train(model, goal, Settled(rows, rows, whole), limits, folder, log, on_step)


def outputs(model: Any, goal: Any, rows: TokenRows) -> dict[str, float]:
    """What the model makes of the rows: the loss and everything else that the objective measures."""
    with attention(causal_model(model), NAME):
        loss, metrics = mean_loss(MicroBatch(model, goal), goal, rows, Forward(True, 0, torch.float32, PLACE), 64)
    return {"loss": loss, **metrics}


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_it_learns_and_is_saved_and_goes_on(kind: str, name: str, tmp_path: Path) -> None:
    goal = objective(name)
    rows = goal.rows(rows_for(name))
    model = fresh(kind, goal)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    outcome = go(kind, model, goal, rows, tmp_path / "whole")
    steps = seen(events.Log(tmp_path / "whole" / "events.jsonl"), events.Step)
    assert outcome.best_loss < 0.97 * steps[0].loss

    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], before) for name, before in frozen.items())

    save_tuned(model, tokenizer(), base(), tmp_path / "saved")
    opened = load_tuned(base(), tmp_path / "saved", section(kind), "float32", scores=goal.scores)
    assert outputs(opened, goal, rows) == pytest.approx(outputs(model, goal, rows), abs=1e-5)

    def die(step: events.Step) -> None:
        if step.step == DEATH:
            raise Death

    with pytest.raises(Death):
        go(kind, fresh(kind, goal), goal, rows, tmp_path / "killed", die)
    resumed = fresh(kind, goal)
    assert go(kind, resumed, goal, rows, tmp_path / "killed").best_loss == outcome.best_loss
    log = events.Log(tmp_path / "killed" / "events.jsonl")
    assert seen(log, events.Resumed)[-1].step == DEATH // EVERY * EVERY
    curve, _ = events.training_curve(log.path)
    assert [(s.loss, s.metrics, s.smooth_loss) for s in curve] == [(s.loss, s.metrics, s.smooth_loss) for s in steps]
    assert all(torch.equal(weights(model)[name], found) for name, found in weights(resumed).items())
