"""Loss and every gradient are TRL's, where TRL has the objective: DPO and its variants, SimPO, ORPO, KTO, reward.

ORPO, CPO and SimPO live in `trl.experimental`, which any release may drop; their tests are skipped then.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import base, moved, objective, rated_rows, row_sums, rows_for, tokenizer

from luthier.models.attention import NAME, attention
from luthier.models.load import load_model
from luthier.models.logprobs import batch_logprobs
from luthier.models.logprobs import row_sums as sums_of
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.train.forward import Forward, add_reference, spread
from luthier.train.parallel import Parallel

PLACE = torch.device("cpu")


@pytest.fixture
def trl(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI"):
        monkeypatch.setitem(os.environ, name, "1")
    return pytest.importorskip("trl")


def columns(rows: TokenRows, first: str = "chosen_ids", second: str = "rejected_ids") -> list[dict[str, Any]]:
    """Rows two by two as TRL tokenises them: the prompt of the first, and both completions."""
    found = []
    for k in range(0, len(rows), 2):
        two = rows.row(k), rows.row(k + 1)
        start = two[0].trained.index(True)
        # TRL's completion goes on to the end of the row; what follows the end of turn is not trained here
        last = [len(row.trained) - row.trained[::-1].index(True) for row in two]
        completions = {name: row.ids[start:end] for name, row, end in zip((first, second), two, last, strict=True)}
        found.append({"prompt_ids": two[0].ids[:start], **completions})
    return found


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def our_gradients(goal: Any, model: Any, rows: TokenRows, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    forward = Forward(True, 0, torch.float32, PLACE)
    if goal.reference:
        rows = add_reference(model, rows, forward, 100, Parallel(), folder / "cache")
    with attention(causal_model(model), NAME):
        batch = forward.lay(rows, spread(range(len(rows) // 2), 2))
        loss = goal.loss(model.train(), batch).total / goal.units(batch)
        return loss.item(), gradients(model, loss)


TRL_LOSSES = {"sigmoid": {}, "hinge": {"loss": "hinge"}, "ipo": {"loss": "ipo"}}
TRL_LOSSES["robust"] = {"loss": "robust", "label_smoothing": 0.2}


@pytest.mark.parametrize("name", sorted(TRL_LOSSES))
def test_loss_and_every_gradient_of_dpo_are_those_of_trl(name: str, trl: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows, smoothing = rows_for("dpo"), TRL_LOSSES[name].get("label_smoothing", 0.0)
    loss, found = our_gradients(objective("dpo", **TRL_LOSSES[name]), moved(), rows, tmp_path)
    asked = trl.DPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        loss_type=[name], label_smoothing=smoothing, beta=0.1, disable_tqdm=True, max_length=None,
    )  # fmt: skip
    some = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
    trainer = trl.DPOTrainer(moved(), args=asked, train_dataset=some, processing_class=tokenizer())
    before = row_sums(load_model(base(), "float32"), rows)  # TRL would take the moved adapter as its reference
    trainer.precompute_ref_logps = True
    pairs = columns(rows)
    for k, pair in enumerate(pairs):
        pair |= {"ref_chosen_logps": before[2 * k], "ref_rejected_logps": before[2 * k + 1]}  # type: ignore[dict-item]
    batch = DataCollatorForPreference(pad_token_id=0)(pairs)
    theirs = trainer.compute_loss(trainer.model.train(), batch)
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    same(found, gradients(trainer.model, theirs))


def test_loss_and_every_gradient_of_a_reward_model_are_those_of_trl(trl: Any, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = rows_for("reward")
    loss, found = our_gradients(objective("reward", centring=0.01), moved(scores=True), rows, tmp_path)
    asked = trl.RewardConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        center_rewards_coefficient=0.01, disable_tqdm=True,
    )  # fmt: skip
    some = Dataset.from_list([{"chosen": "ab", "rejected": "c"}] * 2)
    trainer = trl.RewardTrainer(moved(scores=True), args=asked, train_dataset=some, processing_class=tokenizer())
    order = [*range(0, len(rows), 2), *range(1, len(rows), 2)]
    ids = [torch.tensor(rows.row(i).ids) for i in order]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0)
    assert rows.ratings is not None
    margin = torch.from_numpy(rows.ratings[0::2] - rows.ratings[1::2])
    inputs = {"input_ids": padded, "attention_mask": (padded != 0).long(), "margin": margin}
    trainer.model.config.pad_token_id = trainer.model.get_base_model().config.pad_token_id = 0
    theirs = trainer.compute_loss(trainer.model.train(), inputs)
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    same(found, gradients(trainer.model, theirs))


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=5e-6, rtol=1e-3, msg=name)


def padded(rows: TokenRows) -> dict[str, torch.Tensor]:
    """Pairs as the experimental trainers of TRL lay them out; labels are -100 where nothing is trained."""
    batch = {}
    for side, first in (("chosen", 0), ("rejected", 1)):
        some = [rows.row(i) for i in range(first, len(rows), 2)]
        ids = [torch.tensor(row.ids) for row in some]
        labels = [torch.where(torch.tensor(row.trained), one, -100) for row, one in zip(some, ids, strict=True)]
        for name, values, fill in (("input_ids", ids, 0), ("labels", labels, -100)):
            batch[f"{side}_{name}"] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
        batch[f"{side}_attention_mask"] = (batch[f"{side}_input_ids"] != 0).long()
    return batch


def experimental(name: str, **settings: Any) -> Any:
    """An experimental trainer of TRL with what its loss reads, and nothing else."""
    module = pytest.importorskip(f"trl.experimental.{name}")
    trainer = object.__new__(getattr(module, f"{name.upper()}Trainer"))
    trainer.accelerator = SimpleNamespace(device=PLACE, gather_for_metrics=lambda value: value)
    common = {"is_encoder_decoder": False, "aux_loss_enabled": False, "pad_token_id": 0, "padding_value": 0}
    vars(trainer).update(common | settings)
    return trainer


def test_loss_and_every_gradient_of_simpo_are_those_of_trl(trl: Any, tmp_path: Path) -> None:
    rows = rows_for("dpo")
    loss, found = our_gradients(objective("dpo", loss="simpo", beta=2.0, gamma=0.8), moved(), rows, tmp_path)
    trainer = experimental(
        "cpo", loss_type="simpo", beta=2.0, simpo_gamma=0.8, label_smoothing=0.0, alpha=0.0, cpo_alpha=0.0
    )
    model = moved().train()
    theirs, metrics = trainer.get_batch_loss_metrics(model, padded(rows))
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    assert 0 <= metrics["rewards/accuracies"] <= 1
    same(found, gradients(model, theirs))


def test_loss_and_every_gradient_of_orpo_are_those_of_trl(trl: Any, tmp_path: Path) -> None:
    """TRL's first term counts the prompt's tokens too; the paper's (equation 6) only the answer's, as ours."""
    rows = rows_for("orpo")
    loss, found = our_gradients(objective("orpo", beta=0.3), moved(), rows, tmp_path)
    trainer = experimental("orpo", beta=0.3)
    model, batch = moved().train(), padded(rows)
    chosen, rejected, *_ = trainer.concatenated_forward(model, batch)
    odds, *_ = trainer.odds_ratio_loss(chosen, rejected)
    theirs = -chosen.mean() - odds.mean()
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    same(found, gradients(model, theirs))


def test_loss_and_every_gradient_of_kto_are_those_of_trl(trl: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    goal, weights = objective("kto", beta=0.3, desirable=1.5, undesirable=0.5), {"desirable_weight": 1.5}
    both = goal.rows(rated_rows(7))
    forward, model = Forward(True, 0, torch.float32, PLACE), moved(seed=8)
    ready = add_reference(model, both, forward, 100, Parallel(), tmp_path / "cache")

    def log_sums(numbers: list[int]) -> Any:
        batch = forward.lay(ready, numbers)
        with torch.no_grad():
            return sums_of(batch_logprobs(model, batch), batch), batch

    numbers = list(range(len(both)))
    with attention(causal_model(model), NAME):
        goal.begin([numbers], log_sums, lambda value: value)
        batch = forward.lay(ready, goal.learned(numbers))
        ours = goal.loss(model.train(), batch).total / goal.units(batch)
        found = gradients(model, ours)

    asked = trl.KTOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        beta=0.3, undesirable_weight=0.5, disable_tqdm=True, max_length=None, **weights,
    )  # fmt: skip
    some = Dataset.from_list([{"prompt": "a", "completion": "b", "label": k == 0} for k in range(4)])
    trainer = trl.KTOTrainer(moved(seed=8), args=asked, train_dataset=some, processing_class=tokenizer())
    trainer.precompute_ref_logps = True
    before = row_sums(load_model(base(), "float32"), both)  # TRL would take the moved adapter as its reference
    examples = columns(both, "completion_ids", "KL_completion_ids")
    for k, example in enumerate(examples):
        label = bool(both.ratings[2 * k] > 0)  # type: ignore[index]
        example |= {"label": label, "ref_logps": before[2 * k], "ref_KL_logps": before[2 * k + 1]}
    theirs = trainer.compute_loss(trainer.model.train(), DataCollatorForUnpairedPreference(pad_token_id=0)(examples))
    assert goal.z > 0  # a seed at which the estimate of the divergence is not cut off
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    same(found, gradients(trainer.model, theirs))
