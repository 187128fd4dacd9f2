"""GGUF through the converter of a llama.cpp checkout that the user has: any architecture that it knows."""

import os
import subprocess
import sys
from pathlib import Path

from luthier.errors import Missing, RecipeError

SCRIPT = "convert_hf_to_gguf.py"


def need_converter(checkout: Path) -> Path:
    """The checkout's script.

    Raises:
        Missing: the folder holds none.
    """
    script = checkout / SCRIPT
    if not script.is_file():
        raise Missing(
            f"the folder has no {SCRIPT}",
            where=f"release.llama_cpp: {checkout}",
            fix="git clone https://github.com/ggml-org/llama.cpp, and give that folder",
        )
    return script


def convert(checkout: Path, folder: Path, out: Path, form: str) -> None:
    """Write `out` from a merged model, whole or not at all.

    Raises:
        Missing: the checkout has no converter.
        RecipeError: the converter refuses the model.
    """
    script, aside = need_converter(checkout), out.with_name(out.name + ".partial")
    own = [str(checkout / "gguf-py"), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, str(script), str(folder), "--outtype", form, "--outfile", str(aside)]
    try:
        told = subprocess.run(  # noqa: S603 - the user's own checkout
            command, capture_output=True, text=True, errors="replace", check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(own)},
        )  # fmt: skip
        if told.returncode or not aside.exists():
            lines = told.stderr.strip().splitlines() or [f"it ended with {told.returncode}"]
            raise RecipeError(
                f"llama.cpp's converter refuses the model: {lines[-1]}",
                where="release.llama_cpp",
                fix="a newer checkout may know it; leave release.gguf out to release without it",
            )
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
