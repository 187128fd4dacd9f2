"""The servers that are asked what they make of a release: a file and a line here for each."""

from collections.abc import Sequence
from typing import Any

from luthier.pipeline.servers import llama_cpp, ours, vllm
from luthier.pipeline.work import Work
from luthier.recipe import Tuning

SERVERS = (ours.server, llama_cpp.server, vllm.server)
"""Each gives the server for a run, with the reason where it cannot be asked."""


def servers(work: Work, tuning: Tuning, dtype: Any) -> Sequence[Any]:
    """Those that the recipe wants asked.

    Args:
        work: the run.
        tuning: how its model was tuned.
        dtype: number format of the weights in training.
    """
    if work.recipe.release.served is False:
        return ()
    return [server(work, tuning, dtype) for server in SERVERS]
