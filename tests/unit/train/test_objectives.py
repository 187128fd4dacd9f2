"""The loss of each objective is its paper's formula in float64, TRL's where TRL has it, and the same in any batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import base, moved, objective, rated_rows, row_sums, rows_for, tuned

from luthier.errors import DataError
from luthier.models.attention import NAME, attention
from luthier.models.load import load_model
from luthier.models.tuning import causal_model, untuned
from luthier.recipe import Lora
from luthier.text import TokenRows
from luthier.train.forward import Forward, MicroBatch, add_reference
from luthier.train.loop import mean_loss
from luthier.train.parallel import Parallel

LORA = Lora(kind="lora", rank=4)
PLACE = torch.device("cpu")


def ours(goal: Any, model: Any, rows: TokenRows, folder: Path, *, packed: bool = True, micro: int = 100) -> Any:
    """The mean loss over all rows and its metrics."""
    forward = Forward(packed, 0, torch.float32, PLACE)
    if goal.reference:
        rows = add_reference(model, rows, forward, micro, Parallel(), folder / f"{packed}-{micro}")
    with attention(causal_model(model), NAME):
        return mean_loss(MicroBatch(model, goal), goal, rows, forward, micro)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def expected(name: str, p: Any, p0: Any, counts: Any) -> float:
    """The formula, from log-probabilities of rows, those of the reference, and their lengths."""
    chosen, rejected = (p - p0)[0::2], (p - p0)[1::2]
    h, mean = chosen - rejected, p / counts
    d = mean[0::2] - mean[1::2]
    ratio = (p - p0) / counts
    odds = mean - np.log(1 - np.exp(mean))
    formulas = {
        "sigmoid": lambda: -np.log(sigmoid(0.1 * h)),
        "cautious": lambda: -0.8 * np.log(sigmoid(0.1 * h)) - 0.2 * np.log(sigmoid(-0.1 * h)),
        "robust": lambda: (-0.8 * np.log(sigmoid(0.1 * h)) + 0.2 * np.log(sigmoid(-0.1 * h))) / 0.6,
        "hinge": lambda: np.maximum(0, 1 - 0.1 * h),
        "ipo": lambda: (ratio[0::2] - ratio[1::2] - 1 / (2 * 0.1)) ** 2,
        "simpo": lambda: -np.log(sigmoid(2 * d - 1)),
        "orpo": lambda: -mean[0::2] - 0.1 * np.log(sigmoid(odds[0::2] - odds[1::2])),
    }
    return float(formulas[name]().mean())


GOALS: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("dpo", {}),
    "cautious": ("dpo", {"label_smoothing": 0.2}),
    "robust": ("dpo", {"loss": "robust", "label_smoothing": 0.2}),
    "hinge": ("dpo", {"loss": "hinge"}),
    "ipo": ("dpo", {"loss": "ipo"}),
    "simpo": ("dpo", {"loss": "simpo"}),
    "orpo": ("orpo", {}),
}


@pytest.mark.parametrize("name", sorted(GOALS))
def test_preference_losses_are_the_papers_formulas(name: str, tmp_path: Path) -> None:
    kind, given = GOALS[name]
    goal, rows, model = objective(kind, **given), rows_for(kind), moved()
    with untuned(model):
        before = row_sums(causal_model(model), rows)
    counts = rows.trained_counts.astype(float)
    wanted = expected(name, row_sums(model, rows), before, counts)
    for packed, micro in ((True, 1000), (True, 60), (False, 60)):
        loss, metrics = ours(goal, model, rows, tmp_path, packed=packed, micro=micro)
        assert loss == pytest.approx(wanted, rel=1e-5)
        assert 0 <= metrics["accuracy"] <= 1


@pytest.mark.parametrize("weights", [{}, {"desirable": 1.5, "undesirable": 0.5}])
def test_kto_is_the_papers_formula_with_one_z_for_the_whole_update(weights: dict[str, float], tmp_path: Path) -> None:
    goal, model = objective("kto", beta=0.3, **weights), moved()
    both = goal.rows(rated_rows(7))
    with untuned(model):
        before = row_sums(causal_model(model), both)
    ratio = row_sums(model, both) - before
    z = max(0.0, ratio[1::2].mean())
    own, sign = ratio[0::2], np.sign(both.ratings[0::2])  # type: ignore[index]
    weight = np.where(sign > 0, weights.get("desirable", 1.0), weights.get("undesirable", 1.0))
    wanted = float((weight * (1 - sigmoid(0.3 * sign * (own - z)))).mean())
    for micro in (1000, 50):
        loss, metrics = ours(goal, model, both, tmp_path, micro=micro)
        assert loss == pytest.approx(wanted, rel=1e-5)
        assert metrics["kl"] == pytest.approx(z, abs=1e-5)


def test_the_mates_of_kto_are_its_own_prompts_with_others_answers() -> None:
    rows = rated_rows(5)
    both = objective("kto").rows(rows)
    assert [both.row(2 * i) for i in range(5)] == [rows.row(i) for i in range(5)]
    for i in range(5):
        own, mate = both.row(2 * i), both.row(2 * i + 1)
        start = own.trained.index(True)
        assert mate.ids[:start] == own.ids[:start]
        assert mate.ids[start:] != own.ids[start:]
        assert mate.trained.index(True) == start


def test_rows_without_a_verdict_are_named() -> None:
    some = replace(rated_rows(4), ratings=np.float32([1, 0, -1, 0]))
    for rows, count in ((some, 2), (replace(some, ratings=None), 4)):
        with pytest.raises(DataError, match=f"{count} rows have no verdict"):
            objective("kto").rows(rows)


@pytest.mark.parametrize(("margin", "centring"), [(True, 0.0), (False, 0.0), (True, 0.05)])
def test_reward_is_the_formula(margin: bool, centring: float, tmp_path: Path) -> None:
    goal, rows, model = objective("reward", margin=margin, centring=centring), rows_for("reward"), moved(scores=True)
    with torch.no_grad():
        scores = [model(input_ids=torch.tensor([rows.row(i).ids])).logits.item() for i in range(len(rows))]
    s = np.array(scores)
    m = rows.ratings[0::2] - rows.ratings[1::2] if margin else 0.0  # type: ignore[index]
    wanted = (-np.log(sigmoid(s[0::2] - s[1::2] - m)) + centring * (s[0::2] + s[1::2]) ** 2).mean()
    for packed, micro in ((True, 1000), (False, 60)):
        loss, metrics = ours(goal, model, rows, tmp_path, packed=packed, micro=micro)
        assert loss == pytest.approx(wanted, rel=1e-5)
        assert metrics["accuracy"] == (s[0::2] > s[1::2]).mean()


def test_text_trains_every_token(tmp_path: Path) -> None:
    goal, model, rows = objective("text"), moved(), rows_for("text")
    whole = goal.rows(rows)
    assert whole.trained_counts.tolist() == (rows.lengths - 1).tolist()
    loss, _ = ours(goal, model, whole, tmp_path)
    assert loss == pytest.approx(-row_sums(model, whole).sum() / whole.trained_counts.sum(), rel=1e-5)


def test_the_reference_is_computed_once_and_is_the_model_before_training(tmp_path: Path) -> None:
    rows, model = rows_for("dpo"), moved()
    forward = Forward(True, 0, torch.float32, PLACE)
    found = add_reference(model, rows, forward, 60, Parallel(), tmp_path / "cache").reference
    assert found == pytest.approx(row_sums(load_model(base(), "float32"), rows), rel=1e-5)
    again = add_reference(None, rows, forward, 60, Parallel(), tmp_path / "cache").reference  # needs no model
    assert again is not None
    assert again.tolist() == found.tolist()  # type: ignore[union-attr]


def test_log_odds_hold_where_the_plain_formula_breaks() -> None:
    from luthier.train.objectives.orpo import _log_odds

    means = torch.tensor([-1e-7, -1e-3, -0.6931, -0.7, -5.0, -80.0])
    exact = means.double() - torch.log(-torch.expm1(means.double()))
    torch.testing.assert_close(_log_odds(means).double(), exact, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(_log_odds(torch.zeros(1))).all()


def test_noise_is_of_the_size_of_the_paper_and_only_in_training() -> None:
    model = tuned(LORA)
    rows = rows_for("sft")
    forward = Forward(True, 0, torch.float32, PLACE)
    seen: list[torch.Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
    with attention(causal_model(model), NAME):
        goal = objective("sft")
        for noise in (0.0, 5.0):
            goal.loss(model, forward.lay(rows, range(6), noise))
        hook.remove()
        batch = forward.lay(rows, range(6), 5.0)
        late: list[torch.Tensor] = []
        layer = causal_model(model).model.layers[0]
        hook = layer.register_forward_pre_hook(lambda _, args: late.append(args[0].detach().clone()))
        goal.loss(model, batch)
        hook.remove()
    change = (late[0] - seen[0]).abs()[0]
    bound = 5.0 / (batch.lengths[0] * change.shape[1]).sqrt()
    assert (change <= bound[:, None] + 1e-6).all()
    assert (change.amax(1) > 0.8 * bound).all()
    assert batch.lengths[0].tolist() == [n for n in rows.lengths.tolist() for _ in range(n)]
    assert F.relu(change).sum() > 0
