"""`luthier release` when it is interrupted for good: nothing half made is taken for a release, and it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize("moment", ["merge:3", "gguf:5"])
def test_a_release_that_was_killed_is_no_release_and_is_made_anew(
    moment: str, luthier: Any, done: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'luthier[gguf]'")
    shutil.copytree(done.parent, tmp_path / "runs", symlinks=True)
    run = tmp_path / "runs" / done.name
    shutil.rmtree((run / "release").resolve())
    (run / "release").unlink()
    asked = ["release", str(run), "release.gguf=[f16]", "release.served=false"]
    path = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, TESTS / "killed_release.py", moment, *asked, "--runs", str(tmp_path / "runs")]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    runs = [folder for folder in (tmp_path / "runs").iterdir() if (folder / "run.json").exists()]
    assert not [folder for folder in runs if (folder / "release").exists()]
    half = list((tmp_path / "runs" / "artifacts").glob("release-*"))
    assert half
    assert all(folder.name.endswith(".partial") and not (folder / "manifest.json").exists() for folder in half)
    for folder in half:
        refused = luthier("serve", folder)
        no_weights, no_verdict = "no model in transformers' format", "no verdict says what this model is worth"
        assert refused.code == (3 if moment == "merge:3" else 4)
        assert (no_weights if moment == "merge:3" else no_verdict) in refused.err
    again = luthier(*asked, "--runs", tmp_path / "runs", "--json")
    assert again.code == 0, again.err
    release = Path(again.document["artifacts"]["release"])
    assert [file.name for file in (release / "gguf").iterdir()] == ["tiny-f16.gguf"]
    assert json.loads((release / "parity.json").read_text())["holds"]
    assert not list((tmp_path / "runs" / "artifacts").glob("release-*.partial"))
