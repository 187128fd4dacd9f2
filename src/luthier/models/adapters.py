"""Several adapters beside one base: its weights lie in memory once, and one adapter at a time is at work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from luthier.errors import DataError


def add_adapter(model: Any, folder: Path, name: str) -> None:
    """Lay one more adapter beside the base of a PEFT model; the one at work stays at work.

    Raises:
        DataError: the folder holds none that fits, or it is damaged.
    """
    try:
        model.load_adapter(str(folder), adapter_name=name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the adapter cannot be loaded: {error}", where=str(folder), fix="train it again") from error


@contextmanager
def using(model: Any, name: str) -> Iterator[None]:
    """The model with this adapter at work."""
    if model.active_adapter != name:
        model.set_adapter(name)
    yield
