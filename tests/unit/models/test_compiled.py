"""Compiled blocks: the same losses and gradients, and no new graph for a batch of another length."""

import time
from typing import Any

import pytest
import torch
from tiny import LORA, llama, random_rows

from luthier.models import compiled
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.compiled import compile_blocks, compile_seconds, why_not
from luthier.models.fast_lora import make_fast
from luthier.models.fastest import compiler
from luthier.models.logprobs import batch_logprobs
from luthier.models.recompute import recompute
from luthier.models.tuning import causal_model, tune

ROWS = random_rows([40, 61, 25, 33, 90, 7])


def result(model: Any, numbers: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    with attention(causal_model(model), NAME):
        logprobs = batch_logprobs(model, lay_out(ROWS, numbers, packed=True))
        logprobs.mean().backward()
    return logprobs.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def kept(model: Any) -> int:
    """Bytes that a forward pass keeps for the backward pass, outside of what is computed again."""
    total = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    with attention(causal_model(model), NAME), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        batch_logprobs(model, lay_out(ROWS, [0, 1, 2], packed=True))
    return total


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_losses_and_gradients_are_the_same_and_lengths_make_no_new_graph() -> None:
    model = tune(llama(), LORA, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    make_fast(model.train())
    plain = [result(model, numbers) for numbers in ([0, 1], [2, 3, 4])]
    undo = compile_blocks(model)
    torch._dynamo.utils.counters.clear()
    begun, before = time.monotonic(), compile_seconds()
    first = result(model, [0, 1])
    assert 0 < compile_seconds() - before < time.monotonic() - begun
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    second = result(model, [2, 3, 4])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    for ours, theirs in zip((first, second), plain, strict=True):
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-5)
        for name, gradient in theirs[1].items():
            torch.testing.assert_close(ours[1][name], gradient, atol=1e-6, rtol=1e-3, msg=name)
    undo()
    again = result(model, [0, 1])
    assert all(torch.equal(again[1][name], gradient) for name, gradient in plain[0][1].items())


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_compiled_blocks_and_activations_computed_again_go_together() -> None:
    """The first block computes everything again, the second its cheap parts, the third nothing."""
    model = tune(llama(num_hidden_layers=3), LORA, 1)
    make_fast(model.train())
    plain = result(model, [0, 1, 2])
    compile_blocks(model, range(1, 2))
    before = kept(model)
    recompute(model, 1, 1)
    layers = causal_model(model).model.layers
    assert ["forward" in vars(layer) for layer in layers] == [True, False, True]
    ours = result(model, [0, 1, 2])
    torch.testing.assert_close(ours[0], plain[0], atol=1e-5, rtol=1e-5)
    for name, gradient in plain[1].items():
        torch.testing.assert_close(ours[1][name], gradient, atol=1e-6, rtol=1e-3, msg=name)
    assert kept(model) < 0.75 * before


def test_where_it_cannot_be_done_a_sentence_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    assert "cheap parts" in (why_not(model, range(2)) or "")
    monkeypatch.setattr(compiled, "compiler", lambda: None)
    assert "compiler" in (why_not(model, range(1)) or "")
    monkeypatch.setattr(compiled, "compiler", lambda: "/usr/bin/g++")
    assert why_not(model, range(1)) is None
