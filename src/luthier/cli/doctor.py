"""`luthier doctor`: what is installed, what the hardware allows, what to install for the rest."""

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from luthier.cli.console import AsJson, console, put

if TYPE_CHECKING:
    from rich.text import Text

CORE = ("torch", "transformers", "peft", "tokenizers", "safetensors", "accelerate", "pydantic")
EXTRAS = {
    "bitsandbytes": ("tuning qlora (4-bit base)", "pip install 'luthier[qlora]'"),
    "uvicorn": ("luthier serve", "pip install 'luthier[serve]'"),
    "xllamacpp": ("GGUF files: parity and luthier serve", "pip install 'luthier[gguf]'"),
    "sentencepiece": ("bases whose tokenizer is tokenizer.model alone", "pip install 'luthier[sentencepiece]'"),
    "vllm": ("luthier serve on an NVIDIA GPU", "pip install vllm"),
}


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: packages and hardware. What is missing comes with what it is good for."""
    from luthier.models.base import ukulele_file
    from luthier.plan import find_hardware

    hardware = find_hardware()
    packages = {name: _version(name) for name in (*CORE, *EXTRAS)}
    missing = [name for name in CORE if packages[name] is None]
    base = ukulele_file("model.safetensors").exists()
    free = shutil.disk_usage(".").free
    status = "failed" if missing or not base else "done"
    if as_json:
        put(
            {
                "status": status,
                "run": None,
                "artifacts": {},
                "metrics": {},
                "packages": packages,
                "hardware": {
                    "cpu": hardware.cpu,
                    "cores": hardware.cores,
                    "memory": hardware.memory,
                    "free_disk": free,
                },
                "gpus": [{"name": gpu.name, "memory": gpu.memory} for gpu in hardware.gpus],
                "bundled_base": base,
            }
        )
    else:
        _tell(packages, hardware, base, free)
    if status == "failed":
        raise SystemExit(5)


def _tell(packages: dict[str, str | None], hardware: object, base: bool, free: int) -> None:
    screen = console(out=True)
    screen.print(f"luthier {_version('luthier') or 'from source'}, Python {platform.python_version()}, {sys.platform}")
    screen.print(f"machine: {hardware}, {free / 1e9:.0f} GB free here")
    for name in CORE:
        screen.print(_line(packages[name], "missing", "red", name, "-> pip install luthier"))
    for name, (purpose, install) in EXTRAS.items():
        screen.print(_line(packages[name], "--", "yellow", name, f"for {purpose} -> {install}"))
    screen.print(_line("2.9 M parameters" if base else None, "missing", "red", "ukulele", "-> pip install luthier"))
    tunings = "full, lora and qlora" if packages["bitsandbytes"] else "full and lora"
    if getattr(hardware, "gpus", ()):
        screen.print(f"training: {tunings} on the GPU in bfloat16")
    else:
        screen.print(f"training: {tunings} on the CPU in float32, so small models only")


def _line(found: str | None, lacking: str, tone: str, name: str, advice: str) -> "Text":
    from rich.text import Text

    mark, style, rest = ("ok", "green", found) if found else (lacking, tone, advice)
    return Text("  ") + Text(f"{mark:<8}", style) + Text(f"{name:<14} {rest}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
