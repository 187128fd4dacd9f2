"""`luthier serve`: an OpenAI-compatible API for what a run released."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.console import RUNS, AsJson, Runs, console, put


class Backend(StrEnum):
    """What computes."""

    auto = "auto"
    vllm = "vllm"
    llama_cpp = "llama.cpp"
    transformers = "transformers"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="A run, a released folder, a model's folder or a GGUF file; several beside each other. Default: last.",
            show_default=False, metavar="[NAME=]RUN",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Others than this machine need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8000,
    base: Annotated[bool, typer.Option("--base", help="Serve the base model, too, under the name 'base'.")] = False,
    backend: Annotated[
        Backend,
        typer.Option("--backend", help="auto: vLLM with a GPU, llama.cpp for GGUF files, else transformers."),
    ] = Backend.auto,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Answers of one model that are written together.")] = 16,
    key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="A file of API keys, one a line; or set LUTHIER_API_KEY.", metavar="FILE"),
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Serve a model that no passing verdict was reached on.")
    ] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Serve a run's model through OpenAI's API. Only what the gate passed, exactly as it was judged."""
    from luthier.pipeline import service
    from luthier.pipeline.serving import find_targets

    service.need_packages()
    screen = console()
    place = service.Place(host, port, service.read_keys(key_file, os.environ.get("LUTHIER_API_KEY")))
    place.require_key()
    targets = find_targets(models or ["last"], runs, base=base, unverified=unverified)
    chosen = service.choose_backend(targets, backend.value)

    def ready(url: str) -> None:
        names = [target.name for target in targets]
        if as_json:
            put({"status": "serving", "url": url, "models": names, "backend": chosen})
            sys.stdout.flush()
        for target in targets:
            what = target.opened.what if target.opened else "GGUF"
            screen.print(f"{target.name}: {what}, {target.folder}", style="dim")
        screen.print(f"serving {', '.join(names)} at {url}/v1 with {chosen}; Ctrl-C stops")

    def stopping() -> None:
        screen.print("stopping: no new requests, open answers are finished; Ctrl-C again stops at once")

    said = service.Said(screen.print, ready, stopping)
    service.serve(targets, place, chosen, said, rows=batch)
    screen.print("stopped")
