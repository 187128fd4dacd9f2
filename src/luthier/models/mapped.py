"""Pages of weight files that nobody needs any more.

Weights are not read into memory: their file is mapped, and a page counts as the process's own once it was looked at,
until the whole file is let go. Weights that were made into something smaller would so stay beside it, at their full
size, for as long as one other tensor of the file is in use. Here their pages are given back; Linux only, elsewhere
nothing happens.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

DONTNEED = 4
"""MADV_DONTNEED: the next one to look reads the file again, so nothing is lost but what was changed in place."""
Span = tuple[int, int]
"""First address and the one after the last."""


def weight_files() -> list[Span]:
    """Where weight files are mapped."""
    if sys.platform != "linux":
        return []
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        where, *_, name = line.split(maxsplit=5)
        if name.endswith(".safetensors"):
            start, _, end = where.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def span(tensor: torch.Tensor) -> Span:
    """Where a tensor's numbers lie, all of its storage's that it reaches."""
    start = tensor.data_ptr()
    return start, start + tensor.nbytes


def give_back(unused: Span, files: Iterable[Span]) -> int:
    """Give back the whole pages of a span of addresses, as far as a weight file is mapped there.

    Returns:
        Bytes that were given back.
    """
    given = 0
    for start, end in files:
        first = -(-max(start, unused[0]) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = min(end, unused[1]) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last and not ctypes.CDLL(None).madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(last - first), DONTNEED
        ):
            given += last - first
    return given


def give_back_unused(model: torch.nn.Module, but: Iterable[Span]) -> int:
    """Give back what lies in mapped weight files and is no tensor of the model's, as after quantising while loading.

    Args:
        model: that was just loaded, and not changed since.
        but: files that were mapped before: of other models, which may have been changed in place.

    Returns:
        Bytes that were given back.
    """
    used, given = sorted(span(t) for t in [*model.parameters(), *model.buffers()]), 0
    for file in set(weight_files()).difference(but):
        free, end = file
        for first, last in used:
            if file[0] <= first < end:
                given += give_back((free, first), [file])
                free = max(free, last)
        given += give_back((free, end), [file])
    return given
