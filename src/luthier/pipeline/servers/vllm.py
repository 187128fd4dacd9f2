"""vLLM, as `luthier serve` starts it where there is a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.pipeline.servers.ours import released
from luthier.pipeline.service import has_vllm, job_of, refused_by_vllm
from luthier.pipeline.work import Work
from luthier.recipe import Tuning

SPARE = 0.9
"""Share of the memory that is free which vLLM takes; its own share of all memory unless told otherwise."""


def server(work: Work, tuning: Tuning, dtype: Any) -> Any:
    """VLLM for the released model, whole or a LoRA adapter beside its base."""
    from luthier.release.parity.served import Server

    @contextmanager
    def start(folder: Path) -> Iterator[Any]:
        from luthier.release.endpoint import Endpoint
        from luthier.serve.vllm import started

        target = released(work, tuning, dtype, folder)
        with started(replace(job_of([target]), memory=_free())) as port:
            yield Endpoint(f"http://127.0.0.1:{port}/v1", target.name, more={"return_tokens_as_token_ids": True})

    def absent(folder: Path) -> str | None:
        if not has_vllm():
            return "it needs its package and an NVIDIA GPU"
        if not work.recipe.release.served:
            return "it takes minutes to start; release.served=true asks it"
        target = released(work, tuning, dtype, folder)
        return refused_by_vllm([target], target)

    return Server("vLLM", "model", absent, start)


def _free() -> float:
    """Share of the GPU's memory that it may take beside what this run still holds."""
    from luthier.models.load import free_share

    return round(SPARE * free_share(), 2)
