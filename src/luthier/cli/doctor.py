"""`luthier doctor`: what is installed, what the hardware allows, what to install for the rest."""

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

from luthier.cli.console import AsJson, console, put

CORE = ("torch", "transformers", "peft", "tokenizers", "safetensors", "accelerate", "pydantic")
EXTRAS = {"bitsandbytes": ("tuning qlora (4-bit base)", "pip install 'luthier[qlora]'")}


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: packages, hardware, and what each missing part would be good for."""
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
        found = packages[name]
        mark = "[green]ok[/]" if found else "[red]missing[/]"
        screen.print(f"  {mark} {name} {found or '-> pip install luthier'}")
    for name, (purpose, install) in EXTRAS.items():
        found = packages[name]
        screen.print(
            f"  [green]ok[/] {name} {found}" if found else f"  [yellow]--[/] {name}: for {purpose} -> {install}"
        )
    screen.print(f"  {'[green]ok[/]' if base else '[red]missing[/]'} bundled base ukulele")
    gpus = getattr(hardware, "gpus", ())
    if gpus:
        screen.print("training: full, lora, qlora on the GPU in bfloat16")
    else:
        screen.print(
            "training: full, lora, qlora on the CPU in float32; small models only (4 bits save memory, not time)"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
