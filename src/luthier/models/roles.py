"""One base model in several roles: the policy, the values of its states, reward models, each an adapter of its own.

| tuning | policy | values | reference | reward model |
| --- | --- | --- | --- | --- |
| lora, qlora | the adapter | a second adapter, and a head | adapters off | an adapter and a head on the same base |
| full, freeze | the model | a second whole model with a head | a second frozen model | a model of its own |

An adapter that begins by taking the base apart (`init` pissa, olora) leaves no base to switch back to, so its reference
is a second frozen model too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from luthier.errors import DataError
from luthier.models.attention import NAME
from luthier.models.batch import Batch
from luthier.models.logprobs import hidden_states
from luthier.models.tuned import ADAPTER
from luthier.models.tuning import causal_model

VALUE = "value"
Module = torch.nn.Module


class Critic(Module):
    """The value of each state in which a token is chosen: a head on hidden states, and a model where it has its own."""

    def __init__(self, head: Module, own: Module | None = None) -> None:
        super().__init__()
        self.own = own
        if own is None:
            self.head = head
        torch.nn.init.zeros_(head.weight)  # type: ignore[arg-type]  # so that every value begins at 0

    def values(self, model: Any, batch: Batch) -> torch.Tensor:
        """[labels], float32: what is expected from where each label was chosen."""
        if self.own is not None:
            hidden = hidden_states(self.own, batch).index_select(0, batch.sources)
            return self.own.score(hidden)[:, 0].float()  # type: ignore[operator, no-any-return]
        with speaking_as(model, VALUE):
            hidden = hidden_states(model, batch).index_select(0, batch.sources)
        return self.head(hidden.float())[:, 0]  # type: ignore[no-any-return]


def add_critic(model: Any, seed: int, make_own: Callable[[], Module]) -> None:
    """Give a tuned model the attribute `critic`.

    Args:
        model: tuned with LoRA, or a whole model.
        seed: of the adapter's beginning.
        make_own: makes a second model with a score, trainable in the way of the first; asked for a whole model only.
    """
    if not isinstance(model, peft.PeftModel):
        own: Any = make_own()
        own.set_attn_implementation(NAME)
        model.critic = Critic(own.score, own)
        return
    config = deepcopy(model.peft_config["default"])
    config.init_lora_weights = True  # what the policy's adapter took out of the base cannot be taken out again
    config.modules_to_save = config.trainable_token_indices = None
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        model.add_adapter(VALUE, config)
        width = causal_model(model).config.get_text_config().hidden_size
        place = next(model.parameters()).device
        model.critic = Critic(torch.nn.Linear(width, 1, bias=False).to(place))
    for name, parameter in model.named_parameters():
        if f".{VALUE}." in name:
            parameter.requires_grad_(True)


@contextmanager
def without_critic(model: Any) -> Iterator[None]:
    """The policy alone, to be saved."""
    critic = model.__dict__["_modules"].pop("critic", None)
    try:
        yield
    finally:
        if critic is not None:
            model.critic = critic


@contextmanager
def speaking_as(model: Any, name: str) -> Iterator[None]:
    """Another adapter of the model for a while; which weights are trained stays as it is."""
    with same_gradients(model):
        before = model.active_adapter
        model.set_adapter(name)
        try:
            yield
        finally:
            model.set_adapter(before)


@contextmanager
def same_gradients(model: Module) -> Iterator[None]:
    """PEFT marks weights as trained or not whenever an adapter is switched; afterwards they are as they were."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


def quiet_dropout(model: Module) -> None:
    """Take dropout out of a model: probabilities of one text have to be the same twice."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def add_scorer(model: Any, name: str, folder: Path) -> Module:
    """Put a reward model's adapter beside those of a model on the same base.

    Args:
        model: tuned with LoRA.
        name: of the adapter from now on.
        folder: PEFT's adapter of a reward model.

    Returns:
        Its head: hidden states [rows, hidden] -> scores [rows, 1].

    Raises:
        DataError: the adapter does not fit, or it is damaged.
    """
    try:
        config = LoraConfig.from_pretrained(str(folder))
        saved = load_file(folder / ADAPTER)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise DataError(f"the adapter cannot be loaded: {error}", where=str(folder), fix="train it again") from error
    heads = {key: tensor for key, tensor in saved.items() if key.rpartition(".")[0].endswith("score")}
    if len(heads) != 1:
        raise DataError("the adapter has no score: it is no reward model", where=str(folder), fix="train one")
    config.modules_to_save, config.task_type, config.inference_mode = None, "CAUSAL_LM", True
    weight = next(iter(heads.values())).float()
    with same_gradients(model):
        model.add_adapter(name, config)
        rest = {key: tensor for key, tensor in saved.items() if key not in heads}
        found = peft.set_peft_model_state_dict(model, rest, adapter_name=name)
    if found.unexpected_keys:
        raise DataError(
            f"the adapter does not fit this base: it has {found.unexpected_keys[0]}", where=str(folder), fix="train one"
        )
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.requires_grad_(False)
    head = torch.nn.Linear(weight.shape[1], 1, bias=False).requires_grad_(False)
    head.weight.copy_(weight)
    return head.to(next(model.parameters()).device)
