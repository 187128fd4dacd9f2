"""What a tuning trains: counted exactly beforehand, saved so that others can open it."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import SafetensorError
from tiny import TUNED, base, prompts, tokenizer, tuned
from transformers import AutoModelForCausalLM

from luthier.errors import DataError, Missing, RecipeError
from luthier.models.counting import model_facts, trainable_parameters
from luthier.models.generate import generate
from luthier.models.load import load_model
from luthier.models.tuned import load_tuned, save_tuned
from luthier.models.tuning import causal_model, linear_names, quantisation, tune
from luthier.recipe import Full, Lora, Qlora

SEVEN = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
MODULES: list[Any] = ["all-linear", ["q_proj"], ["k_proj", "down_proj"]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_trainable_parameters_are_counted_exactly(kind: str, rank: int, modules: Any, tied: bool) -> None:
    tuning = {"lora": Lora, "qlora": Qlora}[kind](kind=kind, rank=rank, target_modules=modules)
    model = tune(load_model(base(tied), "float32", quantise=quantisation(tuning)), tuning, 0)
    assert trainable_parameters(base(tied), tuning) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("tied", [True, False])
def test_full_tuning_trains_everything(tied: bool) -> None:
    tuning = Full(kind="full")
    model = tune(load_model(base(tied), "float32"), tuning, 0)
    real = sum(p.numel() for p in model.parameters() if p.requires_grad)
    facts = model_facts(base(tied))
    assert trainable_parameters(base(tied), tuning) == real == facts.total
    head = 0 if tied else 320 * 64
    assert facts.total == facts.linear + 320 * 64 + head + 5 * 64  # blocks, embedding, head, norms
    assert (facts.hidden, facts.layers, facts.vocabulary, facts.context) == (64, 2, 320, 256)


def test_an_unknown_layer_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(RecipeError, match="no layer named w_pack, lm_head; it has: " + ", ".join(SEVEN)):
        tuned(Lora(kind="lora", target_modules=["q_proj", "w_pack", "lm_head"]))
    assert linear_names(load_model(base(), "float32", quantise=Qlora(kind="qlora"))) == SEVEN


def test_the_same_seed_gives_the_same_adapter_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (dict(tuned(TUNED["lora"], seed).named_parameters()) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def moved(kind: str) -> Any:
    """A tuned model whose trained weights are all away from their beginning."""
    model = tuned(TUNED[kind])
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("kind", sorted(TUNED))
@torch.no_grad()
def test_a_saved_model_gives_the_same_logits_when_opened_here_and_by_others(kind: str, tmp_path: Path) -> None:
    model = moved(kind)
    ids = torch.tensor([[1, 7, 9, 300]])
    expected = model(input_ids=ids).logits
    save_tuned(model, tokenizer(), base(), tmp_path)
    ours = load_tuned(base(), tmp_path, TUNED[kind], "float32")
    assert torch.equal(ours(input_ids=ids).logits, expected)
    if kind == "full":
        others = AutoModelForCausalLM.from_pretrained(tmp_path)
    else:
        untuned = load_model(base(), "float32", quantise=quantisation(TUNED[kind]))
        others = peft.PeftModel.from_pretrained(untuned, str(tmp_path))
        assert peft.PeftConfig.from_pretrained(str(tmp_path)).base_model_name_or_path == "tiny"
    assert torch.equal(others.eval()(input_ids=ids).logits, expected)
    assert (tmp_path / "tokenizer.json").exists()
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_damaged_model_is_named(kind: str, tmp_path: Path) -> None:
    save_tuned(moved(kind), tokenizer(), base(), tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_tuned(base(), tmp_path, TUNED[kind], "float32")
    assert caught.value.where == str(tmp_path)


def test_a_disk_that_fills_up_while_saving_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    model = moved("lora")
    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(Missing, match="No space left on device"):
        save_tuned(model, tokenizer(), base(), tmp_path)


def lora_gradients(model: Any) -> dict[str, torch.Tensor]:
    model.train().zero_grad(set_to_none=True)
    ids = torch.tensor([[1, 7, 9, 300, 12, 44]])
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def test_four_bit_layers_keep_their_gradient_after_an_evaluation() -> None:
    """bitsandbytes would repack the weights in evaluation on some CPUs; then layers below get no gradient."""
    model = moved("qlora")
    before = lora_gradients(model)
    generate(model, tokenizer(), prompts(3), stop=[4], max_new_tokens=4)
    after = lora_gradients(model)
    assert all(gradient.abs().max() > 0 for gradient in before.values())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_four_bit_layer_may_repack_on_any_cpu() -> None:
    layers = [m for m in causal_model(tuned(TUNED["qlora"])).modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    assert len(layers) >= 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
