"""The loss head is log-softmax over the model's own logits, in chunks or in one piece, with its exact gradient."""

from typing import Any

import pytest
import torch
import transformers as hf
from tiny import llama, of_config, random_rows, sizes

from luthier.models import logprobs as module
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.logprobs import batch_logprobs, token_logprobs

HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (hf.LlamaConfig, {}),
    "cohere": (hf.CohereConfig, {"logit_scale": 0.25}),
    "granite": (hf.GraniteConfig, {"logits_scaling": 4.0}),
    "gemma2": (hf.Gemma2Config, {"final_logit_softcapping": 3.0}),
    "gemma3": (hf.Gemma3TextConfig, {"final_logit_softcapping": 2.0}),
}


@pytest.mark.parametrize("chunk", [1 << 24, 320 * 7, 1], ids=["one piece", "chunks of 7", "one by one"])
@pytest.mark.parametrize("name", HEADS)
def test_it_equals_log_softmax_in_float64(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk)
    config, changes = HEADS[name]
    model = of_config(config(**(sizes() | changes)))
    hidden = 3 * torch.randn(23, 64, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(23) * 13
    hidden.requires_grad_()
    head = model.get_output_embeddings().weight
    ours = token_logprobs(model, hidden, targets)
    (ours * torch.linspace(-1, 1, 23)).sum().backward()

    exact_hidden, exact_head = hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_()
    logits = exact_hidden @ exact_head.T
    logits = logits * changes.get("logit_scale", 1) / changes.get("logits_scaling", 1)
    if cap := changes.get("final_logit_softcapping"):
        logits = cap * torch.tanh(logits / cap)
    exact = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
    (exact * torch.linspace(-1, 1, 23)).sum().backward()
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact_hidden.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.grad.double(), exact_head.grad, atol=1e-5, rtol=1e-5)
    head.grad = None


def test_its_gradient_agrees_with_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", 2 * 320)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model = llama().double()
    hidden = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([7, 0, 319])
    assert torch.autograd.gradcheck(lambda h: token_logprobs(model, h, targets), (hidden,), fast_mode=True)


def test_no_labels_give_no_logprobs() -> None:
    empty = token_logprobs(llama(), torch.zeros(0, 64), torch.zeros(0, dtype=torch.long))
    assert empty.shape == (0,)


def test_logits_are_never_held_for_all_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", 320 * 4)
    held = []
    plain = module.logits_of
    monkeypatch.setattr(module, "logits_of", lambda causal, hidden: held.append(len(hidden)) or plain(causal, hidden))
    hidden = torch.randn(10, 64, requires_grad=True)
    token_logprobs(llama(), hidden, torch.zeros(10, dtype=torch.long)).sum().backward()
    assert sorted(held) == [2, 2, 4, 4, 4, 4]  # once forward, once more in the backward pass


@pytest.mark.parametrize("chunk", [1 << 24, 320 * 7], ids=["one piece", "chunks of 7"])
@pytest.mark.parametrize("name", HEADS)
def test_beside_a_frozen_head_the_gradient_is_the_same_and_logits_are_made_once(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the path for trained heads, which is held to float64 above; weighted, as preferences weigh rows."""
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk)
    config, changes = HEADS[name]
    model = of_config(config(**(sizes() | changes)))
    targets = torch.arange(23) * 13
    weights = torch.linspace(-1, 1, 23)
    found = []
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        hidden = 3 * torch.randn(23, 64, generator=torch.Generator().manual_seed(0))
        hidden.requires_grad_()
        with monkeypatch.context() as patch:
            if frozen:
                patch.setattr(module, "_logprobs", None)  # the other path is not taken
            logprobs = token_logprobs(model, hidden, targets)
        (logprobs * weights).sum().backward()
        found.append((logprobs.detach(), hidden.grad))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(token_logprobs(model, hidden, targets), found[1][0])


@pytest.mark.parametrize("chunk", [1 << 24, 320 * 7], ids=["one piece", "chunks of 7"])
@pytest.mark.parametrize("name", HEADS)
def test_the_sum_has_the_same_gradient_with_a_head_that_learns(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against `token_logprobs`, summed by autograd: the head, the states and everything below them."""
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk)
    config, changes = HEADS[name]
    model = of_config(config(**(sizes() | changes)))
    batch = lay_out(random_rows([23, 9, 30]), [0, 1, 2], packed=True)
    found = []
    with attention(model, NAME):
        for one_pass in (False, True):
            model.zero_grad(set_to_none=True)
            total = module.batch_logprob_sum(model, batch) if one_pass else batch_logprobs(model, batch).sum()
            (total * -0.3).backward()
            grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            found.append((total.detach(), grads))
        with torch.no_grad():
            torch.testing.assert_close(module.batch_logprob_sum(model, batch), found[0][0])
    torch.testing.assert_close(found[1][0], found[0][0])
    assert found[0][1].keys() == found[1][1].keys()
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, atol=1e-4, rtol=1e-4, msg=key)
