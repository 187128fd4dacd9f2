"""Texts one behind the other, as compiled code takes them: one call for all rows of a shard."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def chained(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The texts in UTF-8 and where each begins and the last ends: `[bytes]`, `[n + 1]`."""
    return chain([text.encode("utf-8", "replace") for text in texts])


def chain(parts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same of bytes."""
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return np.frombuffer(b"".join(parts), np.uint8), starts
