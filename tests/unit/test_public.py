"""What users import: it is listed, typed, and does what the page of reference shows."""

import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import scenes

import luthier
from luthier.types import Metric


def test_the_surface_is_small_and_typed() -> None:
    assert luthier.__all__ == ["__version__", "open_run", "run"]
    assert files("luthier").joinpath("py.typed").is_file()
    for function in (luthier.run, luthier.open_run):
        found = inspect.signature(function)
        assert found.return_annotation == "Run"
        assert all(p.annotation is not inspect.Parameter.empty for p in found.parameters.values())


def test_a_type_checker_knows_what_a_run_is(tmp_path: Path) -> None:
    pytest.importorskip("mypy")  # it comes with `make check`
    script = tmp_path / "script.py"
    script.write_text(
        "import luthier\n"
        'run = luthier.run("recipe.yaml", "seed=1")\n'
        'reveal_type(run.metrics["exact_match"].value)\n'
        "run.verdict\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'script.py:3: note: Revealed type is "float"' in done.stdout.replace("builtins.", ""), done.stdout
    assert '"Run" has no attribute "verdict"' in done.stdout


def test_a_run_from_a_mapping_and_opened_again(tmp_path: Path) -> None:
    base = scenes.make_base(tmp_path / "base")
    body = scenes.recipe(base, scenes.write_rows(tmp_path / "rows.jsonl", scenes.conversations(60)))
    run = luthier.run(body, "training.epochs=1", runs=tmp_path / "runs")
    assert body["training"]["epochs"] == 2  # the caller's own is left alone
    assert run.recipe.training.epochs == 1
    assert isinstance(run.metrics["validation_loss"], Metric)
    assert sum(run.artifact("dataset").json("facts.json")["fates"].values()) == 60
    for name in ("last", run.name, run.name[:6], run.folder):
        again = luthier.open_run(name, runs=tmp_path / "runs")
        assert (again.folder, again.metrics, again.status) == (run.folder, run.metrics, "done")
