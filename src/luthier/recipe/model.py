"""Section `model`: what to start from."""

from typing import Literal

from pydantic import model_validator

from luthier.recipe.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class PlainTemplate(Section):
    """How turns are written for a model without a chat template: plain text, saved as a chat template."""

    prompt: str
    """A question, with `{prompt}` where its text stands, such as `"Question: {prompt}\\nAnswer:"`."""
    completion: str = " {completion}"
    """An answer, with `{completion}` where its text stands; the tokenizer's end token follows it."""
    system: str | None = None
    """A system text, with `{system}` where it stands. Without this a system turn is refused."""

    @model_validator(mode="after")
    def _each_field_stands_once(self) -> "PlainTemplate":
        for name in ("prompt", "completion", "system"):
            text = getattr(self, name)
            if text is not None and text.count("{" + name + "}") != 1:
                raise ValueError(f"model.chat_template.{name} needs {{{name}}} in it, once")
        if self.completion.partition("{completion}")[0].strip():
            raise ValueError("what stands before {completion} is the model's to write; put it at the end of the prompt")
        return self


class Model(Section):
    """The pre-trained model."""

    base: str = "ukulele"
    """`ukulele` (comes with Luthier), a folder with a model in transformers' format, the folder of a run (its released
    model; without the hash at its end the newest run of the name), or a hub id such as `Qwen/Qwen3-0.6B`."""
    revision: str | None = None
    """Commit or tag of a hub model; the newest when not given. The one used is written to the lock."""
    dtype: Dtype = "auto"
    """Number format of the weights in training. `auto`: bfloat16 on a GPU that has it; on a CPU what is faster there,
    as tried out: float32 unless it has AMX."""
    new_tokens: tuple[str, ...] = ()
    """Control tokens that the vocabulary lacks, for example `<|im_start|>` for a base model that is to learn to chat.
    Their embeddings begin at the mean of all others and are trained, with `full`, `lora` and `qlora`."""
    chat_template: str | PlainTemplate | None = None
    """For a base model that has no chat template: a file with one (Jinja, looked for beside the recipe first), or how
    turns are written in plain text. It takes the place of one that the model has, and is saved with the tuned model."""
    end_token: str | None = None
    """The token that ends an answer, where it is not the tokenizer's own end token."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
