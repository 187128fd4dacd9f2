"""What this machine has. Found without torch, so that asking is quick."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card: its name and memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """Cores, memory in bytes, and graphics cards."""

    cpu: str
    cores: int
    memory: int
    gpus: tuple[Gpu, ...]

    def __str__(self) -> str:
        cards = ", ".join(f"{gpu.name} ({gpu.memory / 1e9:.0f} GB)" for gpu in self.gpus) or "no GPU"
        return f"{self.cores} cores, {self.memory / 1e9:.0f} GB memory, {cards}"


def find_hardware() -> Hardware:
    """Look at this machine."""
    return Hardware(_cpu(), _cores(), _memory(), _gpus())


def _cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(whole, int(text))
    return whole


def _gpus() -> tuple[Gpu, ...]:
    """NVIDIA cards, as their driver's own tool lists them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    ask = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = (line.rpartition(",") for line in answer.strip().splitlines())
    return tuple(Gpu(name.strip(), int(memory) << 20) for name, _, memory in rows if memory.strip().isdigit())
