"""Section `release`: what is made of the tuned model."""

from typing import Literal

from luthier.recipe.model import Dtype
from luthier.recipe.section import Section


class Release(Section):
    """The released model."""

    merge: bool | None = None
    """Merge adapters into the base, so that any server can load the model. Off: the adapter is released as it is. When
    not given, what can be merged is."""
    dtype: Dtype = "auto"
    """Number format of the merged weights. `auto`: the one it was trained in, or float32 where more than a quarter of
    what training changed would be lost in the cast."""
    deploy: tuple[Literal["vllm", "compose", "kubernetes"], ...] = ()
    """Files that put the model into service with vLLM: its command line, a file for Docker Compose, manifests for
    Kubernetes. They lie beside the model, in the folder `deploy`."""
