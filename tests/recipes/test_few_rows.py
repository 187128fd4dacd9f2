"""Sixty rows and all weights, with the recipe of this repository: the overfitting is seen, stopped and told."""

from pathlib import Path

import pytest
from repository import ROOT
from safetensors.torch import load_file

import luthier
from luthier import events
from luthier.errors import GateFailed

pytestmark = pytest.mark.slow
FOLDER = ROOT / "recipes" / "few-rows"
QUICK = ("gate.calibration=0", "evaluate.retention=[]", "evaluate.max_items=4")


def test_training_stops_by_itself_and_the_best_weights_are_released(tmp_path: Path) -> None:
    run = luthier.run(FOLDER / "recipe.yaml", *QUICK, runs=tmp_path / "runs")
    steps, validations = events.training_curve(run.events)
    body = run.artifact("model").json("training.json")
    best = min(validations, key=lambda v: v.loss)
    assert body["steps"] < body["planned_steps"]
    assert body["stopped"] == "no better validation loss in 3 validations"
    assert body["best_step"] == best.step < validations[-1].step
    late = [s.loss for s in steps if s.step > best.step]
    assert sum(late) / len(late) < best.loss / 2  # the training rows go on being learned by heart
    assert body["overfitting"].startswith(f"overfitting: after update {best.step} the validation loss rose")
    # what is released has the loss of the best update, not that of the last
    assert run.metrics["validation_loss"].value == pytest.approx(best.loss, rel=1e-3)
    tuned, released = (run.artifact(name) for name in ("model", "release"))
    weights = load_file(tuned.path("model.safetensors"))
    shipped = load_file(released.path("model/model.safetensors"))
    assert all(weights[name].equal(shipped[name]) for name in shipped)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert f"overfitting: after update {best.step}" in page
    assert f"at update {best.step}" in page
    assert "<polyline" in page or "<path" in page


def test_a_rule_compares_the_losses_on_training_and_validation_rows(tmp_path: Path) -> None:
    """A model that only learned its rows by heart is not released."""
    hard = ["training.epochs=12", "training.patience=100", "training.learning_rate=0.002", "data.split.validation=0.6"]
    with pytest.raises(GateFailed, match=r"generalisation_gap at most 0\.005") as caught:
        luthier.run(
            FOLDER / "three-hundred.yaml",
            *QUICK,
            *hard,
            "training.max_steps=40",
            "gate.rules=[validation_loss improves, generalisation_gap at most 0.005]",
            runs=tmp_path / "runs",
        )
    gap = caught.value.run.metrics["generalisation_gap"]
    assert gap.low > 0.005
    assert "release" not in caught.value.run.artifacts
