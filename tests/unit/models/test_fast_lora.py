"""LoRA as one function gives what PEFT's own layers give: outputs, gradients, files; alone and in groups."""

from typing import Any

import peft
import pytest
import torch
from tiny import QLORA, base, llama, random_rows

from luthier.models import fast_lora
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.fast_lora import covered, lora_layers, make_fast, make_plain
from luthier.models.load import load_model
from luthier.models.logprobs import batch_logprobs
from luthier.models.tuning import causal_model, quantisation, tune, untuned
from luthier.recipe import Lora

ROWS = random_rows([40, 61, 25, 33])
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dropout": {"dropout": 0.2},
    "dora": {"dora": True},
    "dora with dropout": {"dora": True, "dropout": 0.2},
    "some layers": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "embedding too": {"target_modules": ["q_proj", "embed_tokens"]},
}


def moved(tuning: Lora, **config: Any) -> Any:
    """A tuned model whose adapters have left their beginning."""
    quantised = quantisation(tuning)
    loaded = load_model(base(), "float32", quantise=quantised) if quantised else llama(**config)
    model = tune(loaded, tuning, 1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "magnitude" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def result(model: Any, numbers: list[int], **kwargs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities and the gradient of their sum of squares, dropout seeded."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(7)
    with attention(causal_model(model), NAME):
        logprobs = batch_logprobs(model, lay_out(ROWS, numbers, packed=True))
        logprobs.square().sum().backward(**kwargs)
    return logprobs.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def compare(model: Any, numbers: list[int], exact: float = 2e-4) -> None:
    theirs = result(model, numbers)
    make_fast(model)
    ours = result(model, numbers)
    torch.testing.assert_close(ours[0], theirs[0], atol=2e-5, rtol=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, atol=exact * gradient.abs().max().item(), rtol=0, msg=name)
    make_plain(model)
    again = result(model, numbers)
    assert all(torch.equal(again[1][name], gradient) for name, gradient in theirs[1].items())


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [2]], ids=["merged", "added"])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_gives_what_peft_gives(name: str, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    if len(numbers) == 1:
        monkeypatch.setattr(fast_lora, "_merges", lambda *_: False)
    compare(moved(Lora(kind="lora", rank=8, **SETTINGS[name])).train(), numbers)


def test_biases_are_added_once() -> None:
    model = moved(Lora(kind="lora", rank=4), attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    compare(model.train(), [0, 1])


def test_a_base_in_four_bits() -> None:
    pytest.importorskip("bitsandbytes")
    compare(moved(QLORA).train(), [0, 1])
    compare(moved(QLORA.model_copy(update={"dora": True})).train(), [0, 1])


def test_half_precision_under_autocast_is_as_close_to_the_truth_as_peft() -> None:
    """Both round; against float32 ours may be off by no more than theirs, give or take."""
    model = moved(Lora(kind="lora", rank=8)).train()
    exact = result(model, [0, 1])[1]

    def off() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = result(model, [0, 1])[1]
        return sum((found[n] - g).norm().item() for n, g in exact.items())

    theirs = off()
    make_fast(model)
    assert off() < 1.3 * theirs


def test_checkpointing_changes_nothing() -> None:
    model = moved(Lora(kind="lora", rank=8, dropout=0.1)).train()
    make_fast(model)
    kept = result(model, [0, 1])
    causal_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    again = result(model, [0, 1])
    assert all(torch.equal(again[1][name], gradient) for name, gradient in kept[1].items())


def test_switched_off_it_is_the_base() -> None:
    model = moved(Lora(kind="lora", rank=8)).eval()
    make_fast(model)
    batch = lay_out(ROWS, [0, 1], packed=True)
    plain = llama()
    with attention(plain, NAME), attention(causal_model(model), NAME), torch.no_grad(), untuned(model):
        assert torch.equal(batch_logprobs(model, batch), batch_logprobs(plain, batch))


def test_layers_that_turn_out_to_read_different_inputs_are_computed_alone() -> None:
    """As in cross attention, whose keys come from somewhere else."""

    class Cross(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return self.q_proj(x) + self.k_proj(other) + self.v_proj(other)

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(Cross(), config)  # type: ignore[arg-type]
    x, other = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    theirs = model(x, other)
    expected = torch.autograd.grad(theirs.square().sum(), [x, other])
    make_fast(model)
    for _ in range(2):
        ours = model(x, other)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(torch.autograd.grad(ours.square().sum(), [x, other]), expected)


def test_what_is_not_covered_goes_through_peft() -> None:
    model = moved(Lora(kind="lora", rank=4))
    layers = [layer for _, _, layer in lora_layers(model)]
    assert len(layers) == 14
    assert all(covered(layer) for layer in layers)
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    assert not any(covered(layer) for layer in layers)
    compare(model.train(), [0])


def test_inputs_are_kept_once_for_the_layers_that_read_them() -> None:
    """What the backward pass keeps, counted by storage: less than PEFT's layers do."""

    def kept(model: Any) -> int:
        seen: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with attention(causal_model(model), NAME), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            total = batch_logprobs(model, lay_out(ROWS, [0, 1, 2, 3], packed=True)).sum()
        assert total.requires_grad
        return sum(seen.values())

    model = moved(Lora(kind="lora", rank=8, dropout=0.1)).train()
    theirs = kept(model)
    make_fast(model)
    assert kept(model) < 0.85 * theirs
