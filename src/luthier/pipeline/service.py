"""A server for what was found: vLLM where there is a GPU, llama.cpp for GGUF files, else our own."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from luthier.errors import Missing, RecipeError
from luthier.pipeline.serving import BASE, Target, load_served
from luthier.recipe import Qlora

Backend = Literal["auto", "vllm", "llama.cpp", "transformers"]


@dataclass(frozen=True)
class Place:
    """Where a server listens and who may use it.

    Attributes:
        host, port: port 0 takes a free one.
        keys: API keys, one of which clients have to send; none: everybody who reaches it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Sequence[str] = ()

    def require_key(self) -> None:
        """Raise where others could use the server.

        Raises:
            RecipeError: other machines reach it, and it has no key.
        """
        from luthier.serve.http import is_local

        if not is_local(self.host) and not self.keys:
            raise RecipeError(
                f"other machines reach {self.host}, so an API key is needed",
                where="--host",
                fix="export LUTHIER_API_KEY=..., or --api-key-file FILE; 127.0.0.1 needs none",
            )


@dataclass(frozen=True)
class Said:
    """Who hears what happens: one line a request, that it is ready and where, that it stops."""

    note: Callable[[str], None]
    ready: Callable[[str], None]
    stopping: Callable[[], None]


def need_packages() -> None:
    """Raise unless the packages of the server are there.

    Raises:
        Missing: with the command that installs them.
    """
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise Missing("serving needs starlette and uvicorn", fix="pip install 'luthier[serve]'")


def choose_backend(targets: Sequence[Target], asked: Backend) -> Backend:
    """Which server does it.

    Raises:
        RecipeError: the one asked for cannot serve this.
        Missing: it is not installed, or needs a GPU.
    """
    files = [target.gguf for target in targets]
    if all(files):
        if asked in ("auto", "llama.cpp"):
            return "llama.cpp"
        raise RecipeError("a GGUF file is served by llama.cpp", where="--backend", fix="--backend llama.cpp")
    if any(files):
        raise RecipeError("GGUF files and other models cannot share a server", fix="start one server for each")
    if asked == "llama.cpp":
        raise RecipeError("llama.cpp serves GGUF files", where="--backend", fix="luthier serve NAME=model.gguf")
    if asked == "transformers":
        return asked
    reasons = {target.name: reason for target in targets if (reason := refused_by_vllm(targets, target))}
    if asked == "auto":
        return "vllm" if has_vllm() and not reasons else "transformers"
    for name, reason in reasons.items():
        raise RecipeError(f"vLLM cannot serve '{name}': {reason}", where="--backend", fix="--backend transformers")
    if not has_vllm():
        raise Missing("vLLM needs an NVIDIA GPU and its package", where="--backend", fix="pip install vllm")
    return asked


def has_vllm() -> bool:
    """Whether vLLM is installed and there is a GPU for it."""
    if not (find_spec("vllm") and shutil.which("vllm")):
        return False
    from luthier.models.load import device

    return device().type == "cuda"


def refused_by_vllm(targets: Sequence[Target], target: Target) -> str | None:
    """Why vLLM does not serve a target beside the others; None when it does."""
    from luthier.serve.vllm import Adapter

    opened = target.opened
    if opened is None or not opened.adapter:
        beside = [one for one in targets if one is not target and not (one.opened and one.opened.adapter)]
        return "it serves one whole model at a time" if beside else None
    if isinstance(opened.tuning, Qlora):
        return "the adapter was trained on a quantised base; its merged release can be served"
    path = opened.folder / "adapter_config.json"
    if not path.exists():
        return "it has no place for this kind of adapter"
    return Adapter(str(opened.folder), json.loads(path.read_text(encoding="utf-8"))).refused()


def job_of(targets: Sequence[Target]) -> Any:
    """The targets as vLLM serves them: one whole model, or adapters beside their base."""
    from luthier.serve.vllm import Adapter, Job

    adapters = [target for target in targets if target.opened and target.opened.adapter]
    opened = (adapters or list(targets))[0].opened
    assert opened is not None
    start = opened.start
    template = opened.folder / "chat_template.jinja"
    common: dict[str, Any] = {
        "dtype": opened.dtype,
        "context": start.context,
        "template": str(template.resolve()) if template.exists() else None,
        "trust_remote_code": start.trust_remote_code,
    }
    if not adapters:
        return Job(str(opened.folder.resolve()), targets[0].name, **common)
    beside = {
        target.name: Adapter(
            str(target.folder.resolve()),
            json.loads((target.folder / "adapter_config.json").read_text(encoding="utf-8")),
        )
        for target in adapters
    }
    model, revision = (start.name, start.revision) if start.revision else (str(start.folder.resolve()), None)
    return Job(model, BASE, adapters=beside, tokenizer=str(opened.folder.resolve()), revision=revision, **common)


def serve(targets: Sequence[Target], place: Place, backend: Backend, said: Said, *, rows: int) -> None:
    """Serve until a signal comes.

    Raises:
        Missing: a package is not there, or another server ended by itself.
        RecipeError: the address cannot be had.
        Interrupted: it was stopped at once.
    """
    host = f"[{place.host}]" if ":" in place.host else place.host
    if backend == "vllm":
        from luthier.serve.vllm import run_vllm

        def begun() -> None:
            said.ready(f"http://{host}:{place.port}")

        run_vllm(job_of(targets), place.host, place.port, place.keys, ready=begun)
        return
    from luthier.serve.app import make_app
    from luthier.serve.http import bind, is_local, run_app

    at = bind(place.host, place.port)
    answers = answers_of(targets, backend, rows=rows)
    app = make_app(answers, keys=place.keys, local=is_local(place.host), note=said.note)

    def ready() -> None:
        said.ready(f"http://{host}:{at.getsockname()[1]}")

    try:
        run_app(app, at, ready=ready, stopping=said.stopping)
    finally:
        answers.close()


def answers_of(targets: Sequence[Target], backend: Backend, *, rows: int) -> Any:
    """What answers requests, loaded: llama.cpp, or our own models.

    Args:
        targets: what is served.
        backend: which of the two.
        rows: answers of one model that are written together.

    Raises:
        DataError: a model cannot be loaded.
        Missing: llama.cpp is not there.
    """
    if backend == "llama.cpp":
        from luthier.serve.behind import Behind

        files, systems = {one.name: one.folder for one in targets}, {one.name: one.system for one in targets}
        return Behind(files, systems, rows=rows)
    from luthier.serve.batching import Batching
    from luthier.serve.own import OwnModels

    batching = Batching(load_served(targets), rows=rows)
    return OwnModels(batching, {target.name: str(target.folder) for target in targets})


def read_keys(file: Path | None, environment: str | None) -> list[str]:
    """API keys from a file, one a line, and from the environment.

    Raises:
        RecipeError: the file cannot be read, or holds none.
    """
    keys = [environment.strip()] if environment and environment.strip() else []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            raise RecipeError("cannot be read", where=str(file), fix="write one key a line") from error
        if not lines:
            raise RecipeError("holds no key", where=str(file), fix="openssl rand -hex 32 > FILE")
        keys += lines
    return keys
