"""Fewer bits by llama.cpp's own quantiser: llama-cpp-python's library, or the user's program `llama-quantize`."""

import ctypes
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from luthier.errors import Missing, ParityFailed

KQUANTS = {"q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""Format -> llama.cpp's number for the mixture of types."""
PROGRAM = "LLAMA_QUANTIZE"
"""Environment variable that names the user's program, where it is not on the path."""


def quantiser() -> str | None:
    """What is there to quantise with: `library`, the path of a program, or None."""
    if find_spec("llama_cpp") is not None:
        return "library"
    return os.environ.get(PROGRAM) or shutil.which("llama-quantize")


def need_quantiser() -> str:
    """The same, or an error that says how to get one.

    Raises:
        Missing: there is none.
    """
    found = quantiser()
    if found is None:
        raise Missing(
            f"{', '.join(KQUANTS)} need llama.cpp's quantiser: llama-cpp-python, or the program llama-quantize",
            where="release.gguf",
            fix=f"pip install 'luthier[kquants]' (it compiles for some minutes), or {PROGRAM}=/path/to/llama-quantize",
        )
    return found


def quantise(source: Path, out: Path, form: str) -> None:
    """Write `out` from a GGUF file in 16 or 32 bits, whole or not at all.

    Raises:
        Missing: no quantiser is there, or the disk is full.
        ParityFailed: the quantiser refuses the file.
    """
    how, aside = need_quantiser(), out.with_name(out.name + ".partial")
    if how == "library":
        command = [sys.executable, "-m", "luthier.release.gguf.kquants", str(source), str(aside), form]
    else:
        command = [how, str(source), str(aside), form.upper()]
    try:
        told = subprocess.run(  # noqa: S603 - our own module, or the program that the user names
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
        )
        if told.returncode or not aside.exists():
            lines = (told.stderr or told.stdout).strip().splitlines()
            if any("No space left" in line for line in lines):
                raise Missing("cannot write: No space left on device", where=str(out), fix="free some space")
            raise ParityFailed(
                f"llama.cpp's quantiser failed: {lines[-1] if lines else told.returncode}",
                where=str(source),
                fix=f"leave {form} out of release.gguf",
            )
        aside.replace(out)
    except OSError as error:
        raise Missing(f"cannot be run: {error}", where=how, fix=f"check {PROGRAM}") from error
    finally:
        aside.unlink(missing_ok=True)


def _by_library(source: str, out: str, form: str) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = KQUANTS[form], os.cpu_count() or 1
    return int(llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)))


if __name__ == "__main__":
    sys.exit(_by_library(*sys.argv[1:4]))
