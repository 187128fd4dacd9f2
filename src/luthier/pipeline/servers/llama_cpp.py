"""llama.cpp's server, in a process of its own behind our API."""

from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from luthier.pipeline.servers.ours import absent, behind_our_api
from luthier.pipeline.serving import Target
from luthier.pipeline.work import Work
from luthier.recipe import Tuning


def server(work: Work, tuning: Tuning, dtype: Any) -> Any:  # noqa: ARG001
    """`luthier serve` for each GGUF file."""
    from luthier.release.parity.served import Server

    def start(file: Path) -> Any:
        return behind_our_api(Target(work.recipe.name, file, None), "llama.cpp")

    return Server("luthier serve with llama.cpp", "gguf", _absent, start)


def _absent(file: Path) -> str | None:
    if reason := absent(file):
        return reason
    there = which("llama-server") or find_spec("xllamacpp")
    return None if there else "llama.cpp's server is not installed: pip install 'luthier[gguf]'"
