"""A base in 8 bits: products close to the exact ones, gradients through it, and what its name promises about memory."""

from typing import Any

import pytest
import torch
from tiny import llama, random_rows

from luthier.errors import RecipeError
from luthier.models import rounded
from luthier.models.attention import NAME, attention
from luthier.models.batch import lay_out
from luthier.models.fast_lora import make_fast
from luthier.models.logprobs import batch_logprobs
from luthier.models.rounded import Fp8, Int8, Rounded, round_base, rounds_inputs
from luthier.models.tuning import causal_model, tune, untuned
from luthier.recipe import Lora

ROWS = random_rows([40, 61, 25, 33])


def tuned(**settings: Any) -> Any:
    model = tune(llama(), Lora(kind="lora", rank=8, **settings), 1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model.train()


def result(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    with attention(causal_model(model), NAME):
        logprobs = batch_logprobs(model, lay_out(ROWS, [0, 1, 2, 3], packed=True))
        logprobs.mean().backward()
    return logprobs.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("multiplies", [True, False])
def test_products_are_those_of_the_rounded_numbers(multiplies: bool) -> None:
    torch.manual_seed(0)
    weight, x, dy = torch.randn(24, 64), torch.randn(32, 64), torch.randn(32, 24)
    frozen = Int8(weight, multiplies=multiplies)
    assert frozen.whole.dtype == torch.int8
    assert (frozen.dense(torch.float32) - weight).abs().max() <= frozen.scale.max() / 2 + 1e-6
    for ours, exact in ((frozen.product(x), x @ weight.T), (frozen.transposed(dy), dy @ weight)):
        assert (ours - exact).norm() / exact.norm() < 0.02
    if multiplies:  # by hand, in float64: round, multiply, scale back
        for rows, matrix, ours in (
            (x, frozen.whole.T, frozen.product(x) / frozen.scale),
            (dy * frozen.scale, frozen.whole, frozen.transposed(dy)),
        ):
            scale = rows.double().abs().amax(1, keepdim=True) / 127
            by_hand = ((rows.double() / scale).round() @ matrix.double()) * scale
            torch.testing.assert_close(ours.double(), by_hand, atol=2e-2, rtol=1e-2)
    else:
        torch.testing.assert_close(frozen.product(x), x @ frozen.dense(torch.float32).T)


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"dropout": 0.1}], ids=str)
@pytest.mark.parametrize("multiplies", [True, False])
def test_loss_and_gradient_stay_close_to_the_exact_base(multiplies: bool, settings: dict[str, Any]) -> None:
    model = tuned(**settings)
    make_fast(model)
    torch.manual_seed(3)
    exact = result(model)
    assert round_base(model, "int8", multiplies=multiplies) == 14
    assert rounds_inputs(model) == multiplies
    torch.manual_seed(3)
    ours = result(model)
    assert ours[0].mean() == pytest.approx(exact[0].mean().item(), rel=0.02)
    assert torch.cosine_similarity(ours[1], exact[1], dim=0) > 0.99


def test_without_adapters_it_is_the_rounded_base() -> None:
    model = tuned()
    round_base(model, "int8", multiplies=False)
    plain = llama()
    for module in plain.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                child.weight.data = Int8(child.weight.data, multiplies=False).dense(torch.float32)
    batch = lay_out(ROWS, [0, 1], packed=True)
    with attention(plain, NAME), attention(causal_model(model), NAME), torch.no_grad(), untuned(model):
        torch.testing.assert_close(batch_logprobs(model, batch), batch_logprobs(plain, batch))
    hidden = torch.randn(3, 64, requires_grad=True)
    layer = next(m for m in model.modules() if isinstance(m, Rounded))
    layer(hidden).sum().backward()
    torch.testing.assert_close(hidden.grad, layer.frozen.dense(torch.float32).sum(0).expand(3, -1))


def test_the_base_takes_a_quarter_of_the_memory() -> None:
    model = tuned()
    before = sum(p.nbytes for n, p in model.named_parameters() if "base_layer" in n)
    round_base(model, "int8", multiplies=True)
    frozen = [m.frozen for m in model.modules() if isinstance(m, Rounded)]
    after = sum(f.whole.nbytes + f.scale.nbytes for f in frozen)
    assert not any("base_layer" in n for n, _ in model.named_parameters())
    assert after < 0.3 * before


def test_fp8_multiplies_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is a GPU's; here its formula takes its place, and scales and layouts are what it asks for."""

    def scaled_mm(a: Any, b: Any, scale_a: Any, scale_b: Any, *, out_dtype: Any, use_fast_accum: bool) -> Any:
        assert a.dtype == b.dtype == torch.float8_e4m3fn
        assert a.is_contiguous()
        assert b.stride(0) == 1  # column by column
        assert scale_a.shape == (len(a), 1)
        assert scale_b.shape == (1, b.shape[1])
        assert use_fast_accum
        return ((a.float() @ b.float()) * scale_a * scale_b).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    torch.manual_seed(0)
    weight, x, dy = torch.randn(48, 64), torch.randn(32, 64), torch.randn(32, 48)
    frozen = Fp8(weight)
    for ours, exact in ((frozen.product(x), x @ weight.T), (frozen.transposed(dy), dy @ weight)):
        assert (ours - exact).norm() / exact.norm() < 0.06
    monkeypatch.setattr(rounded, "can_fp8", lambda: True)
    model = tuned()
    make_fast(model)
    exact_result = result(model)
    round_base(model, "fp8", multiplies=False)
    ours = result(model)
    assert torch.cosine_similarity(ours[1], exact_result[1], dim=0) > 0.98


def test_fp8_is_refused_where_nothing_multiplies_it() -> None:
    if rounded.can_fp8():
        pytest.skip("this GPU can")
    with pytest.raises(RecipeError, match="Hopper"):
        round_base(tuned(), "fp8", multiplies=False)
