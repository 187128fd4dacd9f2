"""One base in several roles: each says what it would say alone, and switching changes nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import LORA, base, chat_rows, pair_rows, tokenizer

from luthier.errors import DataError
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.load import load_model
from luthier.models.logprobs import batch_logprobs, batch_scores
from luthier.models.recompute import recompute
from luthier.models.roles import VALUE, add_critic, add_scorer, quiet_dropout, speaking_as, without_critic
from luthier.models.scoring import Apart, Beside, row_scores
from luthier.models.tuned import load_tuned, save_tuned
from luthier.models.tuning import causal_model, tune, untuned
from luthier.types import Message

ROWS = chat_rows(5)
TALKS = [[Message("user", f"{i}?"), Message("assistant", "red " * (i + 1))] for i in range(4)]


def moved(model: Any, mark: str, seed: int) -> Any:
    """The model with the adapters of a name away from their beginning."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if mark in name:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.05)
    return model


def policy() -> Any:
    model = tune(load_model(base(), "float32"), LORA, 1)
    add_critic(model, 1, lambda: None)  # type: ignore[arg-type, return-value]
    return moved(moved(model, "lora_B.default", 3), f"lora_B.{VALUE}", 4)


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    """A reward model's adapter, as a run leaves it."""
    model = moved(tune(load_model(base(), "float32", scores=True), LORA, 2), "lora_B", 5)
    save_tuned(model, tokenizer(), base(), tmp_path / "reward")
    return tmp_path / "reward"


def test_a_reward_model_beside_the_policy_gives_the_scores_that_it_gives_alone(reward: Path) -> None:
    alone = Apart(load_tuned(base(), reward, LORA, "float32", scores=True), tokenizer())
    model = policy()
    batch = lay_out(ROWS, range(5), packed=True)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    with attention(causal_model(model), NAME), torch.no_grad():
        before = batch_logprobs(model, batch)
        beside = Beside(model, "reward-0", add_scorer(model, "reward-0", reward), tokenizer())
        assert beside(TALKS) == pytest.approx(alone(TALKS), abs=1e-5)
        assert torch.equal(batch_logprobs(model, batch), before)
    after = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: after[name] for name in trained} == trained
    assert not any(flag for name, flag in after.items() if ".reward-0." in name)
    with without_critic(model):
        save_tuned(model, tokenizer(), base(), reward.parent / "policy")
    names = {path.name for path in (reward.parent / "policy").rglob("*.safetensors")}
    assert names == {"adapter_model.safetensors"}


def test_scores_of_pairs_are_those_of_the_training(reward: Path) -> None:
    model: Any = load_tuned(base(), reward, LORA, "float32", scores=True)
    rows = pair_rows(3)
    with attention(causal_model(model), NAME), torch.no_grad():
        expected = batch_scores(model, lay_out(rows, range(6), packed=False)).tolist()
    assert row_scores(model, causal_model(model).score, rows) == pytest.approx(expected, abs=1e-5)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    model = policy()
    with without_critic(model):
        save_tuned(model, tokenizer(), base(), tmp_path)
    with pytest.raises(DataError, match="no score: it is no reward model"):
        add_scorer(model, "reward-0", tmp_path)


def test_switching_puts_the_marks_of_what_is_trained_back() -> None:
    model = policy()
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    assert sum(before.values()) > 0
    with speaking_as(model, VALUE):
        assert model.active_adapter == VALUE
    assert model.active_adapter == "default"
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def gradients(again: bool) -> dict[str, torch.Tensor]:
    """Of a loss of log-probabilities and values in one pass."""
    model = policy()
    with torch.no_grad():
        model.critic.head.weight.fill_(0.1)
    if again:
        recompute(model)
    model.train()
    batch = lay_out(ROWS, range(5), packed=True)
    with attention(causal_model(model), NAME):
        loss = batch_logprobs(model, batch).square().sum() + model.critic.values(model, batch).square().sum()
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_activations_that_are_computed_again_speak_as_they_did_the_first_time() -> None:
    plain, again = gradients(again=False), gradients(again=True)
    assert plain.keys() == again.keys()
    assert any(f".{VALUE}." in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_without_adapters_the_base_speaks() -> None:
    model, bare = policy(), load_model(base(), "float32")
    batch = lay_out(ROWS, range(5), packed=True)
    with attention(causal_model(model), NAME), attention(bare, NAME), torch.no_grad():
        with untuned(model):
            found = batch_logprobs(model, batch)
        torch.testing.assert_close(found, batch_logprobs(bare, batch), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(batch_logprobs(model, batch), found)


def test_dropout_is_taken_out_of_every_layer() -> None:
    model = tune(load_model(base(), "float32"), LORA.model_copy(update={"dropout": 0.5}), 1).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3  # type: ignore[assignment]
    quiet_dropout(model)
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
