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
    new_tokens: tuple[str, ...] = ()
    """Control tokens that the vocabulary lacks, for example `<|im_start|>` for a base model that is to learn to chat.
    Their embeddings begin at the mean of all others and are trained, with `full`, `lora` and `qlora`."""
    chat_template: str | None = None
    """A file with a chat template (Jinja), for a model that comes without one. Beside the recipe first."""
    end_token: str | None = None
    """The token that ends an answer, where it is not the tokenizer's own end token."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
