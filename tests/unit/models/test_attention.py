"""Packed rows, family by family: the same log-probabilities and gradients as alone, and no document sees another."""

from functools import partial
from typing import Any

import pytest
import torch
import transformers as hf
from tiny import llama, of_config, random_rows, sizes
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from luthier.errors import DataError, TrainingStopped
from luthier.models.attention import NAME, Documents, attention, packed_attention
from luthier.models.batch import lay_out
from luthier.models.blockwise import blockwise, takes
from luthier.models.logprobs import batch_logprobs, hidden_states, plain_logprobs
from luthier.train.check import check_head

WINDOW = {"sliding_window": 8}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, {}),
    "mistral": (hf.MistralConfig, WINDOW),
    "qwen2": (hf.Qwen2Config, WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": (hf.Qwen3Config, WINDOW | {"use_sliding_window": True, "max_window_layers": 0}),
    "gemma2": (
        hf.Gemma2Config,
        MIXED | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    ),
    "gemma3": (hf.Gemma3TextConfig, MIXED | {"query_pre_attn_scalar": 16}),
    "gpt_oss": (
        hf.GptOssConfig,
        MIXED | {"num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": {"rope_type": "default"}},
    ),
    "cohere2": (hf.Cohere2Config, MIXED | {"logit_scale": 0.3}),
    "granite": (hf.GraniteConfig, {"logits_scaling": 3.0}),
    "phi3": (hf.Phi3Config, WINDOW),
    "gpt2": (hf.GPT2Config, {"n_embd": 64, "n_layer": 2, "n_head": 4}),
}
ROWS = random_rows([9, 14, 1, 5, 23, 40])


def family(name: str) -> Any:
    config, settings = FAMILIES[name]
    model = of_config(config(**(sizes() | settings)))
    for parameter_name, parameter in model.named_parameters():
        if "sinks" in parameter_name:
            torch.nn.init.normal_(parameter)
    return model


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_give_what_the_model_gives_alone(name: str) -> None:
    """Against the model's own attention, mask and logits, row by row; one row is longer than the window."""
    model = family(name)
    numbers = [4, 2, 0, 5, 1, 3]
    alone = torch.zeros(())
    plain = []
    for i in numbers:
        row = lay_out(ROWS, [i], packed=False)
        plain.append(plain_logprobs(model, row.ids, row.sources, row.targets))
    with attention(model, NAME):
        packed = batch_logprobs(model, lay_out(ROWS, numbers, packed=True))
        padded = batch_logprobs(model, lay_out(ROWS, numbers, packed=False))
        torch.testing.assert_close(packed, torch.cat(plain), atol=1e-5, rtol=0)
        torch.testing.assert_close(padded, torch.cat(plain), atol=1e-5, rtol=0)
        ours = gradients(model, packed.sum())
    for i in numbers:
        row = lay_out(ROWS, [i], packed=False)
        logits = model(input_ids=row.ids, use_cache=False).logits[0]
        alone = alone + torch.log_softmax(logits, -1)[row.sources, row.targets].sum()
    theirs = gradients(model, alone)
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, atol=2e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_changing_one_document_changes_no_other(name: str) -> None:
    model = family(name)
    batch = lay_out(ROWS, [0, 4, 1], packed=True)
    bounds = batch.documents or []
    with attention(model, NAME), torch.no_grad():
        before = hidden_states(model, batch)
        batch.ids[0, bounds[1] : bounds[2]] = torch.randint(5, 320, (bounds[2] - bounds[1],))
        after = hidden_states(model, batch)
    assert torch.equal(before[: bounds[1]], after[: bounds[1]])
    assert torch.equal(before[bounds[2] :], after[bounds[2] :])
    assert not torch.equal(before[bounds[1] : bounds[2]], after[bounds[1] : bounds[2]])


@pytest.mark.parametrize(
    ("config", "settings"),
    [(hf.Lfm2Config, {"layer_types": ["conv", "full_attention"]}), (hf.MambaConfig, {})],
)
def test_a_family_that_cannot_be_packed_is_refused_before_training(config: Any, settings: dict[str, Any]) -> None:
    model = of_config(config(**(sizes() | settings)))
    assert check_head(model, ROWS, packed=False, compute=torch.float32) < 1e-5
    with pytest.raises(TrainingStopped, match=r"packed rows do not give the model's own log-probabilities") as caught:
        check_head(model, ROWS, packed=True, compute=torch.float32)
    assert caught.value.fix == "set training.packing=false"


def test_a_window_that_never_reaches_the_attention_is_found_on_a_longer_row() -> None:
    """Qwen2-MoE keeps its window in the mask alone, which packed rows do not have."""
    moe = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    config = hf.Qwen2MoeConfig(
        **(sizes() | WINDOW | moe), use_sliding_window=True, max_window_layers=1, shared_expert_intermediate_size=32
    )
    rows = random_rows([5, 6, 7, 8, 30])
    with pytest.raises(TrainingStopped, match="log-probabilities"):
        check_head(of_config(config), rows, packed=True, compute=torch.float32)


def test_a_model_whose_attention_is_its_own_is_refused_in_words() -> None:
    model = of_config(hf.BloomConfig(**(sizes() | {"n_layer": 2, "n_head": 4})))
    with pytest.raises(DataError, match="BloomForCausalLM is of a kind whose attention cannot be replaced"):
        check_head(model, ROWS, packed=True, compute=torch.float32)


def test_the_models_own_attention_is_back_afterwards() -> None:
    model = llama()
    with attention(model, NAME):
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match=NAME):
        hidden_states(model, lay_out(ROWS, [0], packed=True))


def test_dropout_on_attention_acts_in_training_only() -> None:
    model = llama(attention_dropout=0.5)
    batch = lay_out(ROWS, [0, 4], packed=True)
    with attention(model, NAME), torch.no_grad():
        assert torch.equal(hidden_states(model.eval(), batch), hidden_states(model, batch))
        assert not torch.equal(hidden_states(model.train(), batch), hidden_states(model, batch))


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("window", [None, 8])
def test_many_documents_at_once_are_laid_out_as_the_kernel_wants(
    window: int | None, groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is a GPU's; here its definition takes its place: each document causal, aligned at its last key.

    In one version of torch it has no word for fewer heads of keys than of queries.
    """

    def varlen(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, most_q: int, most_k: int, **given: Any) -> torch.Tensor:
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert int(cu_q.diff().max()) == most_q
        assert int(cu_k.diff().max()) == most_k
        left, right = given["window_size"]
        parts = []
        for i in range(len(cu_q) - 1):
            own = q[cu_q[i] : cu_q[i + 1]].transpose(0, 1)
            keys, values = (t[cu_k[i] : cu_k[i + 1]].transpose(0, 1) for t in (k, v))
            ahead = torch.arange(keys.shape[1])[None] - torch.arange(own.shape[1])[:, None]
            ahead = ahead - (keys.shape[1] - own.shape[1])
            mask = (ahead <= right) & ((ahead >= -left) if left >= 0 else torch.ones_like(ahead, dtype=torch.bool))
            parts.append(
                torch.nn.functional.scaled_dot_product_attention(
                    own, keys, values, mask, scale=given["scale"], enable_gqa=given.get("enable_gqa", False)
                )
            )
        return torch.cat(parts, 1).transpose(0, 1)

    def without(
        q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, most_q: int, most_k: int, *, scale: float, window_size: Any
    ) -> torch.Tensor:
        return varlen(q, k, v, cu_q, cu_k, most_q, most_k, scale=scale, window_size=window_size)

    def grouping(*given: Any, enable_gqa: bool = False, **more: Any) -> torch.Tensor:
        return varlen(*given, enable_gqa=enable_gqa, **more)

    laid = Documents([0, 9, 23, 30], {2: (9, 15)})
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 30, 16), torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16)
    module = torch.nn.Module().eval()
    plain, _ = packed_attention(module, q, k, v, None, documents=laid, sliding_window=window, scaling=0.3)
    monkeypatch.setattr("luthier.models.attention.has_varlen", lambda _: True)
    monkeypatch.setattr("luthier.models.attention.varlen_attn", grouping if groups else without)
    ours, _ = packed_attention(module, q, k, v, None, documents=laid, sliding_window=window, scaling=0.3)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("heads", "keys", "tokens"), [(4, 4, 160), (6, 2, 257), (2, 1, 512), (3, 3, 65)])
def test_attention_in_blocks_is_that_of_the_formula(heads: int, keys: int, tokens: int) -> None:
    """Output and gradients against softmax(s Q K' + mask) V in float64, with as many and with fewer heads of keys."""
    torch.manual_seed(tokens)
    inputs = [torch.randn(1, tokens, count, 16).transpose(1, 2).requires_grad_() for count in (heads, keys, keys)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    q, k, v = exact[0], *(t.repeat_interleave(heads // keys, 1) for t in exact[1:])
    odds = (q @ k.transpose(2, 3) * 0.3).masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    wanted = odds.softmax(-1) @ v
    found = blockwise(*inputs, 0.3)
    slope = torch.randn(1, tokens, heads, 16).transpose(1, 2)
    found.backward(slope)
    wanted.backward(slope.double())
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    for ours, theirs in zip(inputs, exact, strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, atol=1e-4)  # type: ignore[union-attr]


def test_short_and_middling_documents_go_different_ways_to_the_same_end() -> None:
    """What a pack's documents give depends neither on the kernel nor on what is kept for the backward pass."""
    bounds = Documents([0, 30, 230, 400])
    rows = [torch.randn(1, 400, 4, 16).transpose(1, 2).requires_grad_() for _ in range(3)]
    assert takes(rows[0][:, :, 30:230])
    assert not takes(rows[0][:, :, :30])
    assert not takes(rows[0][:, :, 30:230].detach())

    def gradient(*, own: bool) -> list[torch.Tensor]:
        def go(*given: torch.Tensor) -> torch.Tensor:
            return packed_attention(torch.nn.Module(), *given, None, documents=bounds, own=own)[0]

        contexts = partial(create_selective_checkpoint_contexts, [torch.ops.luthier.blockwise_attention.default])
        found = checkpoint(go, *rows, use_reentrant=False, context_fn=contexts) if own else go(*rows)
        return [found, *torch.autograd.grad(found.square().sum(), rows)]

    for ours, theirs in zip(gradient(own=True), gradient(own=False), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
