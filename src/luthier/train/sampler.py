"""Who writes the answers of a rollout. Adding one is a class and a line in `SAMPLERS`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.errors import Missing
from luthier.models.base import Base
from luthier.models.generate import GREEDY, Generated, Sampling, generate
from luthier.models.roles import without_critic
from luthier.models.tuning import is_adapter
from luthier.models.vllm import Vllm
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

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int] | None, step: int) -> list[Drawn]:
        """An answer to each prompt, drawn from the whole distribution; each depends on its own seed alone.

        Without seeds the greedy answers, without log-probabilities.
        """
        ...


class InProcess:
    """The model that is being trained, with a cache of keys and values; prompts of like length go together."""

    exact = True

    def __init__(
        self, model: Any, tokenizer: Tokenizer, stop: Sequence[int], room: int, temperature: float, tokens: int
    ) -> None:
        self.model, self.tokenizer, self.stop = model, tokenizer, stop
        self.room, self.temperature, self.tokens = room, temperature, tokens

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int] | None, step: int) -> list[Drawn]:  # noqa: ARG002
        """Answers by the model as it is now."""
        found = generate(
            self.model,
            self.tokenizer,
            prompts,
            stop=self.stop,
            max_new_tokens=self.room,
            batch_tokens=self.tokens,
            sampling=_sampling(self.temperature, seeds),
        )
        return _drawn(found)


class WithVllm:
    """vLLM on the GPU of the training, with the adapter of the moment.

    Its kernels and number formats are not those of the training, so it is not exact: what it draws is weighted.
    """

    exact = False

    def __init__(
        self, model: Any, tokenizer: Tokenizer, base: Base, stop: Sequence[int], room: int, temperature: float
    ) -> None:
        if not is_adapter(model):
            raise Missing("objective.sampler=vllm needs an adapter to hand over", fix="tuning.kind=lora")
        self.model, self.stop, self.room, self.temperature = model, stop, room, temperature
        self.vllm = Vllm(model, tokenizer, base, "objective.sampler=vllm")

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int] | None, step: int) -> list[Drawn]:  # noqa: ARG002
        """Answers by vLLM with the adapter as it is now."""
        with without_critic(self.model):
            sampling = _sampling(self.temperature, seeds)
            return _drawn(self.vllm.write(prompts, stop=self.stop, room=self.room, sampling=sampling))


def _sampling(temperature: float, seeds: Sequence[int] | None) -> Sampling:
    return GREEDY if seeds is None else Sampling(temperature, seeds=seeds, logprobs=True)


def _drawn(found: Sequence[Generated]) -> list[Drawn]:
    return [
        Drawn((*a.ids, a.end) if a.end is not None else tuple(a.ids), a.text, a.end is not None, a.logprobs)
        for a in found
    ]
