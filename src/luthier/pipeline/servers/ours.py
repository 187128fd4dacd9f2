"""Our own server, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.pipeline.opened import Opened
from luthier.pipeline.service import Backend, answers_of
from luthier.pipeline.serving import Target
from luthier.pipeline.work import Work
from luthier.recipe import Tuning

ROWS = 8
"""Answers that are written together."""


def server(work: Work, tuning: Tuning, dtype: Any) -> Any:
    """`luthier serve` for the released model, whole or an adapter beside its base."""
    from luthier.release.parity.served import Server

    def start(folder: Path) -> Any:
        return behind_our_api(released(work, tuning, dtype, folder), "transformers")

    return Server("luthier serve", "model", absent, start)


def absent(_: Path) -> str | None:
    """What our API needs and is not installed."""
    there = find_spec("starlette") and find_spec("uvicorn")
    return None if there else "starlette and uvicorn are not installed: pip install 'luthier[serve]'"


def released(work: Work, tuning: Tuning, dtype: Any, folder: Path) -> Target:
    """The released folder as `luthier serve` finds it."""
    whole = (folder / "config.json").exists()
    opened = Opened("released model", folder, work.base, dtype, str(folder), None if whole else tuning)
    return Target(work.recipe.name, folder, opened)


@contextmanager
def behind_our_api(target: Target, backend: Backend) -> Iterator[Any]:
    """A target served as `luthier serve` does it, on a free port of this machine."""
    from luthier.release.endpoint import Endpoint
    from luthier.serve.app import make_app
    from luthier.serve.http import aside

    with aside(make_app(answers_of([target], backend, rows=ROWS))) as url:
        yield Endpoint(f"{url}/v1", target.name)
