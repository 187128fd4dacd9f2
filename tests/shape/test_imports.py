"""Who may import whom, and what a light command must not load."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports
from repository import PACKAGE, ROOT, modules, name_of, parse

HEAVY = ("torch", "transformers", "peft", "pydantic", "numpy", "accelerate", "tokenizers", "datasets")
REPORT = f"import sys; print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
HELP = """
import sys
from luthier.cli.main import main
sys.argv = ["luthier", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_the_import_rule_holds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("code", ["import luthier", HELP], ids=["import luthier", "luthier --help"])
def test_a_light_command_loads_nothing_heavy(code: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("path", modules("src"), ids=name_of)
def test_nothing_is_read_that_can_run_code(path: Path) -> None:
    """Weights come from safetensors, state from JSON: a file that somebody sends must not be able to run anything."""
    for node in ast.walk(parse(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
            assert not (names == ["torch"] and "load" in {alias.name for alias in node.names}), f"line {node.lineno}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}"
            assert node.value.value is False, f"line {node.lineno}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            pytest.fail(f"torch.load on line {node.lineno}")
        assert not PICKLES & set(names), f"line {node.lineno}"
