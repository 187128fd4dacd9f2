"""Section `model`: what to start from."""

from typing import Literal

from luthier.recipe.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Model(Section):
    """The pre-trained model."""

    base: str = "ukulele"
    """`ukulele` (comes with Luthier), a folder with a model in transformers' format, or a hub id such as
    `Qwen/Qwen3-0.6B`."""
    revision: str | None = None
    """Commit or tag of a hub model; the newest when not given. The one used is written to the lock."""
    dtype: Dtype = "auto"
    """Number format of the weights in training. `auto`: bfloat16 on a GPU that has it, float32 on a CPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
