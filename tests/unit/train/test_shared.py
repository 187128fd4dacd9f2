"""Pairs whose common beginning is computed once: the same loss, gradient and reference as pairs computed whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from tiny import LORA, llama, objective, of_config, pair_rows, sizes, tuned

from luthier.errors import TrainingStopped
from luthier.models.attention import NAME, Documents, attention
from luthier.models.batch import lay_out
from luthier.models.fast_lora import make_fast
from luthier.models.tuning import causal_model
from luthier.text.render import TrainingRow
from luthier.text.rows import gather
from luthier.train.check import check_shared
from luthier.train.forward import Forward, MicroBatch, add_reference
from luthier.train.parallel import Parallel

FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, {}),
    "mistral": (hf.MistralConfig, {"sliding_window": 8}),
    "gemma2": (
        hf.Gemma2Config,
        {"sliding_window": 8, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    ),
}


def answers(prompts: list[int], ends: list[tuple[int, int]]) -> Any:
    """Pairs with prompts and answers of these lengths, answers trained."""
    source = np.random.default_rng(5)
    rows = []
    for length, sizes_ in zip(prompts, ends, strict=True):
        prompt = source.integers(5, 320, length).tolist()
        rows += [
            TrainingRow(prompt + source.integers(5, 320, size).tolist(), [False] * length + [True] * size)
            for size in sizes_
        ]
    return gather(rows)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(5, 8), max_size=6), st.lists(st.integers(5, 6), min_size=1, max_size=6),
                  st.lists(st.integers(5, 6), min_size=1, max_size=6)), min_size=1, max_size=4,
    )
)  # fmt: skip
def test_every_label_stands_where_its_row_says(pairs: list[tuple[list[int], list[int], list[int]]]) -> None:
    """Following each row's places back gives the row: also where answers begin alike, or one is the other's start."""
    rows = gather([TrainingRow(p + a, [True] * len(p + a)) for p, x, y in pairs for a in (x, y)])
    numbers = list(range(len(rows)))
    whole, shared = (lay_out(rows, numbers, packed=True, shared=how) for how in (False, True))
    assert shared.targets.tolist() == whole.targets.tolist()
    assert shared.rows.tolist() == whole.rows.tolist()
    assert shared.ids[0][shared.sources].tolist() == whole.ids[0][whole.sources].tolist()
    assert shared.positions[0][shared.sources].tolist() == whole.positions[0][whole.sources].tolist()
    assert shared.ids[0][shared.ends].tolist() == whole.ids[0][whole.ends].tolist()
    assert shared.tokens == whole.tokens
    assert all(b > a for a, b in zip(shared.documents or [], (shared.documents or [])[1:], strict=False))
    saved = sum(end - start for start, end in shared.beginnings.values())
    assert shared.ids.shape[1] == whole.ids.shape[1] - saved
    for (p, x, y), row in zip(pairs, numbers[1::2], strict=True):
        start, end = shared.beginnings.get(row, (0, 0))
        assert end - start >= min(len(p), len(p + x) - 1, len(p + y) - 1)


@pytest.mark.parametrize("kind", ["dpo", "orpo"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_are_the_same(name: str, kind: str) -> None:
    config, settings = FAMILIES[name]
    model = of_config(config(**(sizes() | settings))).train()
    rows = answers([20, 3, 11], [(7, 12), (4, 9), (1, 5)])
    step = MicroBatch(model, objective(kind))
    found = []
    with attention(model, NAME):
        for shared in (False, True):
            model.zero_grad(set_to_none=True)
            loss = step(Forward(True, 0, torch.float32, torch.device("cpu"), shared).lay(rows, range(6))).total
            loss.backward()
            found.append((loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, atol=1e-5 * max(1, gradient.abs().max().item()), rtol=0)


def test_the_reference_is_the_same(tmp_path: Path) -> None:
    model, rows = tuned(LORA), pair_rows(5)
    make_fast(model)
    found = []
    for shared in (False, True):
        forward = Forward(True, 0, torch.float32, torch.device("cpu"), shared)
        found.append(add_reference(model, rows, forward, 100, Parallel(), tmp_path / str(shared), 2).reference)
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


def test_the_other_answer_is_not_seen() -> None:
    """Changing the chosen answer changes nothing of the rejected one, and the other way round."""
    model, rows = llama(), answers([20], [(7, 12)])
    batch = lay_out(rows, [0, 1], packed=True, shared=True)
    start, end = batch.beginnings[1]
    chosen, rejected = slice(end, (batch.documents or [])[1]), slice((batch.documents or [])[1], None)
    with attention(causal_model(model), NAME), torch.no_grad():
        for changed, other in ((chosen, rejected), (rejected, chosen)):
            states = []
            for shift in (0, 1):
                ids = batch.ids.clone()
                ids[0, changed] += shift
                laid = Documents(batch.documents or [], batch.beginnings)
                states.append(model.model(ids, position_ids=batch.positions, use_cache=False, documents=laid)[0][0])
            assert torch.equal(states[0][other], states[1][other])
            assert torch.equal(states[0][start:end], states[1][start:end])
            assert not torch.equal(states[0][changed], states[1][changed])


def test_a_model_that_keeps_a_state_is_found_out() -> None:
    """Layers that are not attention know nothing of places that are seen from elsewhere."""
    model = of_config(hf.Lfm2Config(**(sizes() | {"layer_types": ["conv", "full_attention"]})))
    with pytest.raises(TrainingStopped, match="share their beginning"):
        check_shared(model, answers([20, 9], [(7, 12), (3, 3)]), scores=False, compute=torch.float32)
    assert check_shared(llama(), answers([20, 9], [(7, 12), (3, 3)]), scores=False, compute=torch.float32) < 1e-4
