"""Section `release`: what is made of the tuned model."""

from typing import Literal

from pydantic import model_validator

from luthier.recipe.model import Dtype
from luthier.recipe.section import Section

GgufFormat = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


class Release(Section):
    """The released model."""

    merge: bool | None = None
    """Merge adapters into the base, so that any server can load the model. Off: the adapter is released as it is. When
    not given, what can be merged is."""
    dtype: Dtype = "auto"
    """Number format of the merged weights. `auto`: the one it was trained in, or float32 where more than a quarter of
    what training changed would be lost in the cast."""
    served: bool | None = None
    """Start servers on what is released and ask them, too, as clients do, each a row of the parity table: our own, and
    llama.cpp's for the GGUF files. When not given, those whose packages are installed; `true` also vLLM, where it is
    installed and there is a GPU, and needs `luthier[serve]`."""
    deploy: tuple[Literal["vllm", "compose", "kubernetes"], ...] = ()
    """Files that put the model into service with vLLM: its command line, a file for Docker Compose, manifests for
    Kubernetes. They lie beside the model, in the folder `deploy`."""
    gguf: tuple[GgufFormat, ...] = ()
    """Formats to write the merged model in as GGUF files, for llama.cpp and what is built on it. Needs the extra
    `luthier[gguf]`; `q6_k`, `q5_k_m` and `q4_k_m` need `luthier[kquants]` or the program `llama-quantize`."""
    gguf_adapter: Literal["f32", "f16"] | None = None
    """Write the LoRA adapter as a GGUF adapter too, which `llama-server --lora` and the like apply beside the base."""
    ollama: bool = False
    """Write a Modelfile for the first of the GGUF files, with the chat template in Ollama's language."""
    llama_cpp: str | None = None
    """Folder of a llama.cpp checkout whose converter writes the GGUF files, for architectures that Luthier does not
    write itself."""

    @model_validator(mode="after")
    def _files_are_of_the_merged_model(self) -> "Release":
        if self.gguf and self.merge is False:
            raise ValueError("release.gguf writes the merged model, and release.merge is false; remove one of them")
        for name in ("ollama", "llama_cpp"):
            if getattr(self, name) and not self.gguf:
                raise ValueError(f"release.{name} has no effect without release.gguf; add a format such as q8_0")
        if len(set(self.gguf)) < len(self.gguf):
            raise ValueError("release.gguf names a format twice")
        return self
