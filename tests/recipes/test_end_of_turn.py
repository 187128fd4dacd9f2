"""A model that was not taught to end its answers is not released: the rule, and the mask that it watches over."""

from pathlib import Path

import numpy as np
import pytest
import scenes

import luthier
from luthier.errors import GateFailed
from luthier.text import TokenRows
from luthier.train import fit
from luthier.types import Json

RULE = "ends_with_stop at least 0.99"


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """A base that knows nothing yet, not even how to stop; the bundled one could do that before."""
    home = tmp_path_factory.mktemp("end")
    rows = scenes.write_rows(home / "rows.jsonl", scenes.conversations(100))
    return scenes.recipe(
        scenes.make_base(home / "base", hidden=64), rows, training={"epochs": 12}, gate={"rules": [RULE]}
    )


def test_with_the_end_in_the_mask_it_learns_to_stop(body: Json, tmp_path: Path) -> None:
    run = luthier.run(body, runs=tmp_path / "runs")
    assert run.metrics["before/ends_with_stop"].value == 0
    assert run.metrics["ends_with_stop"].value >= 0.99


def test_without_it_the_gate_says_no(body: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end-of-turn token is left out of training on purpose, as a wrong mask would do it."""
    honest = fit.load_rows

    def without_ends(path: Path) -> TokenRows:
        rows = honest(path)
        ends = np.append(rows.trained[:-1] & ~rows.trained[1:], rows.trained[-1])
        return TokenRows(rows.ids, rows.trained & ~ends, rows.starts)

    monkeypatch.setattr(fit, "load_rows", without_ends)
    with pytest.raises(GateFailed, match=RULE) as caught:
        luthier.run(body, runs=tmp_path / "runs")
    assert caught.value.run.metrics["ends_with_stop"].value < 0.5
    assert caught.value.exit_code == 4
    assert "release" not in caught.value.run.artifacts
