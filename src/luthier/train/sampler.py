"""Who writes the answers of a rollout. Adding one is a class and a line in `SAMPLERS`."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from luthier.errors import Missing
from luthier.models.generate import Sampling, generate
from luthier.models.roles import without_critic
from luthier.models.tuned import save_tuned
from luthier.models.tuning import is_adapter
from luthier.text.render import read_answer
from luthier.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Drawn:
    """An answer as it was sampled: its ids with the end token that it wrote, if it wrote one.

    `logprobs` are those of whoever sampled it, `text` is what a person reads: without the end token and reasoning.
    """

    ids: tuple[int, ...]
    text: str
    ended: bool
    logprobs: tuple[float, ...]


class Sampler(Protocol):
    """Writes answers. `exact` says that it draws from the very distribution that is trained."""

    exact: bool

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int], step: int) -> list[Drawn]:
        """An answer to each prompt, drawn from the whole distribution; each depends on its own seed alone."""
        ...


class InProcess:
    """The model that is being trained, with a cache of keys and values; prompts of like length go together."""

    exact = True

    def __init__(
        self, model: Any, tokenizer: Tokenizer, stop: Sequence[int], room: int, temperature: float, tokens: int
    ) -> None:
        self.model, self.tokenizer, self.stop = model, tokenizer, stop
        self.room, self.temperature, self.tokens = room, temperature, tokens

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int], step: int) -> list[Drawn]:  # noqa: ARG002
        """Answers by the model as it is now."""
        found = generate(
            self.model,
            self.tokenizer,
            prompts,
            stop=self.stop,
            max_new_tokens=self.room,
            batch_tokens=self.tokens,
            sampling=Sampling(self.temperature, seeds=seeds, logprobs=True),
        )
        return [
            Drawn((*a.ids, a.end) if a.end is not None else tuple(a.ids), a.text, a.end is not None, a.logprobs)
            for a in found
        ]


class Vllm:
    """vLLM on the GPU of the training, with the adapter of the moment under a name of its own each time.

    Its kernels and number formats are not those of the training, so it is not exact: what it draws is weighted.
    """

    exact = False

    def __init__(
        self, model: Any, tokenizer: Tokenizer, base: Any, stop: Sequence[int], room: int, temperature: float, out: Path
    ) -> None:
        try:
            from vllm import LLM, SamplingParams
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise Missing("objective.sampler=vllm needs vLLM", fix="pip install vllm, or leave it out") from error
        if not torch.cuda.is_available():
            raise Missing("objective.sampler=vllm needs a GPU", fix="leave objective.sampler out")
        if not is_adapter(model):
            raise Missing("objective.sampler=vllm needs an adapter to hand over", fix="tuning.kind=lora")
        self.model, self.tokenizer, self.base, self.out = model, tokenizer, base, out
        self.parameters: Callable[..., Any] = lambda seed: SamplingParams(
            temperature=temperature, max_tokens=room, stop_token_ids=list(stop), logprobs=0, seed=seed % 2**31
        )
        self.request = LoRARequest
        rank = model.peft_config["default"].r
        self.engine = LLM(
            str(base.folder),
            enable_lora=True,
            max_lora_rank=max(8, 1 << (rank - 1).bit_length()),
            gpu_memory_utilization=0.35,
            logprobs_mode="processed_logprobs",
        )

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int], step: int) -> list[Drawn]:
        """Answers by vLLM with the adapter as it is now."""
        folder = self.out / f"adapter-{step}"
        with without_critic(self.model):
            save_tuned(self.model, self.tokenizer, self.base, folder)
        found = self.engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [self.parameters(seed) for seed in seeds],
            lora_request=self.request(folder.name, step + 1, str(folder)),
            use_tqdm=False,
        )
        shutil.rmtree(folder)
        return [self._read(one.outputs[0]) for one in found]

    def _read(self, output: Any) -> Drawn:
        ids, ended = tuple(output.token_ids), output.finish_reason == "stop"
        logprobs = tuple(at[token].logprob for token, at in zip(ids, output.logprobs, strict=True))
        return Drawn(ids, read_answer(ids[:-1] if ended else ids, self.tokenizer), ended, logprobs)
