"""The embedded recipe on the bundled base, shortened: the job is learned and the skills stay."""

import itertools
import json
from pathlib import Path

import pytest

import luthier
from luthier.models.base import ukulele_file
from luthier.pipeline import default_recipe
from luthier.runs import Run

pytestmark = pytest.mark.slow

EPOCHS = "training.epochs=1.5"
RATE = "training.learning_rate=1e-3"
"""Twice the recipe's rate for a third of its epochs: it learns a little less and forgets a little more."""


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The runs folder that all tests share, so that the base is asked once, and the overrides that save time."""
    folder = tmp_path_factory.mktemp("demo")
    questions = ukulele_file("skills.jsonl").read_text(encoding="utf-8").splitlines()
    some = folder / "some-skills.jsonl"
    some.write_text("\n".join(itertools.islice(questions, 0, None, 3)) + "\n", encoding="utf-8")
    rules = f"[exact_match improves, {some} drops at most 0.2, ends_with_stop at least 0.99]"
    return folder / "runs", [EPOCHS, RATE, f"evaluate.retention=[{some}]", f"gate.rules={rules}"]


@pytest.fixture(scope="module")
def tuned(shortened: tuple[Path, list[str]]) -> Run:
    runs, overrides = shortened
    return luthier.run(default_recipe(), *overrides, runs=runs)


def test_the_job_is_learned_and_the_skills_are_kept(tuned: Run) -> None:
    metrics = tuned.metrics
    assert tuned.status == "done"
    assert metrics["before/exact_match"].value < 0.05
    assert metrics["exact_match"].value > 0.15
    assert metrics["validation_loss"].value < 0.1 < metrics["before/validation_loss"].value
    assert metrics["ends_with_stop"].value >= 0.99
    (skills,) = (name for name in metrics if name.endswith("some-skills.jsonl") and not name.startswith("before/"))
    assert metrics[skills].value > metrics[f"before/{skills}"].value - 0.15
    assert tuned.artifact("release").json("parity.json")["holds"]


def test_every_row_of_the_messy_file_has_its_fate(tuned: Run) -> None:
    facts = tuned.artifact("dataset").json("facts.json")
    rows = (default_recipe().parent / "tickets.jsonl").read_bytes().rstrip(b"\n").count(b"\n") + 1
    assert facts["read"] == rows == sum(facts["fates"].values())
    ledger = tuned.artifact("dataset").path("ledger.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["line"] for line in ledger] == list(range(1, rows + 1))
