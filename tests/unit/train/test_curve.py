"""Overfitting is seen where it is, and only there; and a pass that needs too much memory is made smaller."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import PLAN, TUNED, base, chat_rows, random_rows, save, seen, tokenizer

from luthier import events
from luthier.recipe import build_recipe
from luthier.train.curve import overfitting
from luthier.train.fit import Job, fit


def curves(train: list[float], held: list[float]) -> tuple[list[Any], list[Any]]:
    """A step and a validation each, every second update."""
    steps = [events.Step(k + 1, loss, 0.0, 1.0, 0, 0.0) for k, loss in enumerate(x for t in train for x in (t, t))]
    return steps, [events.Validated(2 * k + 2, loss, best=False) for k, loss in enumerate(held)]


@pytest.mark.parametrize(
    ("train", "held", "said"),
    [
        ([2.0, 1.0, 0.5, 0.2], [1.5, 1.0, 1.2, 1.6], True),
        ([2.0, 1.0, 0.5, 0.2], [1.5, 1.0, 0.9, 0.8], False),  # still learning
        ([2.0, 1.0, 0.5, 0.2], [1.5, 1.0, 1.005, 1.01], False),  # within the noise
        ([2.0, 1.0, 1.5, 3.0], [1.5, 1.0, 1.5, 3.0], False),  # both rise: that is not overfitting
        ([2.0], [1.0], False),
    ],
)
def test_it_takes_both_curves(train: list[float], held: list[float], said: bool) -> None:
    found = overfitting(*curves(train, held))
    assert bool(found) == said
    if found:
        assert "after update 4 the validation loss rose from 1.000 to 1.600 while the training loss fell" in found


def go(folder: Path, rows: Any, held: Any, plan: dict[str, Any] | None = None, **training: Any) -> events.Log:
    dataset = folder / "dataset"
    dataset.mkdir()
    save(dataset / "train.safetensors", rows)
    save(dataset / "validation.safetensors", held)
    recipe = build_recipe({"name": "t", "data": {"sources": [{"path": "x"}]}, "training": training})
    (folder / "out").mkdir()
    log = events.Log(folder / "log.jsonl")
    fit(Job(recipe, TUNED["full"], PLAN | (plan or {}), base(), dataset, folder / "out"), tokenizer(), log)
    return log


def test_a_run_on_few_rows_stops_early_keeps_the_best_and_says_overfitting(tmp_path: Path) -> None:
    rows, held = random_rows([24] * 12, 1), random_rows([24] * 12, 2)  # nothing to learn but the rows themselves
    log = go(tmp_path, rows, held, {"learning_rate": 2e-3}, epochs=60, patience=8, validate_every=3)
    outcome = json.loads((tmp_path / "out" / "training.json").read_text())
    assert outcome["stopped"] == "no better validation loss in 8 validations"
    assert outcome["best_step"] < outcome["steps"] < outcome["planned_steps"]
    assert outcome["overfitting"].startswith("overfitting: after update")
    assert outcome["overfitting"] in [event.message for event in seen(log, events.Warned)]


def test_a_pass_that_takes_too_much_is_made_smaller_and_trains_the_same(tmp_path: Path) -> None:
    curve = []
    for name, plan in (("roomy", {}), ("tight", {"memory_available": 1})):
        (tmp_path / name).mkdir()
        log = go(tmp_path / name, chat_rows(12), chat_rows(4), plan, epochs=2)
        told = [event.message for event in seen(log, events.Warned)]
        assert any("so one forward pass holds" in message for message in told) == (name == "tight")
        curve.append([step.loss for step in seen(log, events.Step)])
    assert curve[1] == pytest.approx(curve[0], rel=1e-4)
