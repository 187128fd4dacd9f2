"""What is fastest on this machine, found by trying and noted for as long as nothing changes.

Number formats are not fast or slow by themselves: without AMX a CPU multiplies bfloat16 at half the speed of float32,
and without VNNI 8-bit integers at a twentieth. On a GPU the attention kernels trade places with its generation.
"""

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from luthier.artifact import digest

SHAPE = (512, 1024, 1024)
"""Rows, columns in and out of the product that is timed on a CPU: a small layer on a small batch."""
LARGE = (4096, 4096, 4096)
GOES = 3
FORMATS = ("float32", "bfloat16")
ATTENTION = {"tokens": 1024, "heads": 16, "size": 128}
VERSION = 1


@dataclass(frozen=True, slots=True)
class Speeds:
    """Operations a second by number format, and the attention kernel that was fastest (None on a CPU)."""

    float32: float
    bfloat16: float
    int8: float
    attention: str | None = None

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """The format to train in: bfloat16 where it is so much faster that its rounding is paid for."""
        return "bfloat16" if self.bfloat16 > 1.5 * self.float32 else "float32"

    @property
    def multiplies_int8(self) -> bool:
        """Whether 8-bit integers are so much faster that rounding on the way is paid for."""
        return self.int8 > 1.5 * self.float32

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {getattr(self, name) / 1e9:,.0f}" for name in (*FORMATS, "int8"))
        return f"products here reach {rates} billion operations a second"


def speeds(folder: Path | None = None) -> Speeds:
    """This machine's speeds: measured in a second or two, or as noted by an earlier run.

    Args:
        folder: of the notes; `~/.cache/luthier` or where XDG_CACHE_HOME says when None. Where it cannot be written,
            it is measured anew each time.
    """
    here = {"version": VERSION, "machine": _machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    home = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier"
    path = home / f"speeds-{digest(here)[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Speeds(**json.loads(path.read_text(encoding="utf-8"))["speeds"])
    found = _measure()
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(here | {"speeds": asdict(found)}, indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
    return found


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU; None where there is none."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    about = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags"))]
    return " ".join(about[:2]) or platform.processor()


def _measure() -> Speeds:
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, inner, columns = LARGE if place.type == "cuda" else SHAPE
    work = 2.0 * rows * inner * columns
    rates = {}
    for name in FORMATS:
        x, w = (torch.randn(n, inner, dtype=getattr(torch, name), device=place) for n in (rows, columns))
        rates[name] = work / _fastest(lambda x=x, w=w: F.linear(x, w), place)  # type: ignore[misc]
    a, b = (torch.randint(-127, 127, (n, inner), dtype=torch.int8, device=place) for n in (rows, columns))
    few = a[: rows // 8].contiguous()  # where it is slow it is very slow
    rates["int8"] = work / 8 / _fastest(lambda: torch._int_mm(few, b.t()), place)
    return Speeds(**rates, attention=_attention(place) if place.type == "cuda" else None)


def _fastest(go: Callable[[], Any], place: torch.device) -> float:
    """Seconds of the fastest of a few goes."""
    best = float("inf")
    for _ in range(GOES + 1):
        if place.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        go()
        if place.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _attention(place: torch.device) -> str | None:
    """The kernel of scaled_dot_product_attention that is fastest forward and backward; None where none works."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shape = (1, ATTENTION["heads"], ATTENTION["tokens"], ATTENTION["size"])
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, device=place, requires_grad=True) for _ in range(3))
    found = {}
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):

        def go(name: str = name) -> None:
            with sdpa_kernel(getattr(SDPBackend, name)):
                F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()  # type: ignore[no-untyped-call]

        try:
            found[name] = _fastest(go, place)
        except RuntimeError:  # this card or build does not have it
            continue
    return min(found, key=lambda name: found[name]) if found else None
