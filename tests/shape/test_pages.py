"""Generated pages are up to date, and the README claims only what a test proves."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT, modules, name_of, parse


@pytest.mark.parametrize("tool", ["make_reference.py", "make_capabilities.py"])
def test_the_page_is_up_to_date(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / tool), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def marked(path: Path) -> set[tuple[str, str]]:
    """The pairs that the tests of a file are marked to prove."""
    pairs = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.proves":
            values = [part.value for part in node.args if isinstance(part, ast.Constant)]
            assert len(values) == len(node.args) == 2, f"{name_of(path)}:{node.lineno}: write both names as literals"
            pairs.add((str(values[0]), str(values[1])))
    return pairs


def test_every_claim_has_a_test() -> None:
    claimed = {tuple(pair) for pair in json.loads((ROOT / "docs" / "capabilities.json").read_text())}
    proving = {pair for path in modules("tests") for pair in marked(path)}
    assert not claimed - proving, f"claimed, but no test is marked for {sorted(claimed - proving)}"


TESTS = """
import pytest

@pytest.mark.proves("lora", "sft")
def test_passes(): pass

@pytest.mark.proves("full", "sft")
@pytest.mark.parametrize("passes", [True, False])
def test_passes_once(passes): assert passes

@pytest.mark.proves("qlora", "sft")
def test_skipped(): pytest.skip("no such device")

@pytest.fixture
def broken(): raise OSError

@pytest.mark.proves("full", "text")
def test_broken(broken): pass

@pytest.mark.proves("ia3", "dpo")
@pytest.mark.xfail
def test_expected_to_fail(): assert False
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "workers"])
def test_only_pairs_whose_tests_all_passed_are_written(workers: list[str], tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_pairs.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  proves(tuning, objective): proves a pair\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capabilities", "pairs.json", *workers]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads((tmp_path / "pairs.json").read_text()) == [["lora", "sft"]]
