"""Reading GGUF files back: facts, and tensors in float32."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from luthier.errors import DataError
from luthier.release.gguf.write import need_gguf


def open_gguf(file: Path) -> Any:
    """The package's reader of a file.

    Raises:
        DataError: it is no GGUF file, or cut short.
        Missing: the package is not installed.
    """
    try:
        return need_gguf().GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise DataError(f"damaged: {error}", where=str(file), fix="luthier release: it will be made anew") from error


def facts_of_file(file: Path) -> dict[str, Any]:
    """Key -> value."""
    return {name: field.contents() for name, field in open_gguf(file).fields.items()}


def tensors_of_file(file: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Name, type, and the tensor in float32, one after the other."""
    gguf = need_gguf()
    for tensor in open_gguf(file).tensors:
        plain = gguf.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        yield tensor.name, tensor.tensor_type.name, torch.from_numpy(plain.copy()).reshape(shape)
