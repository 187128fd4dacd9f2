"""What the training section offers: each option changes what it says, and only that."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PLAN, TUNED, base, chat_rows, objective, plan, save, seen, settings, tokenizer, tuned
from torch.utils.flop_counter import FlopCounterMode

from luthier import events
from luthier.errors import DataError
from luthier.models.attention import NAME, attention
from luthier.models.fast_lora import make_fast
from luthier.models.recompute import recompute
from luthier.models.tuning import causal_model
from luthier.recipe import Lora, build_recipe
from luthier.text import TokenRows
from luthier.train.fit import Job, fit
from luthier.train.forward import Forward
from luthier.train.loop import SMOOTHING, Outcome, train
from luthier.train.optimizer import make_optimizer
from luthier.train.source import Settled

ROWS = chat_rows(12)
UPDATES = plan(ROWS, epochs=4, batch=100, micro=60)


def go(model: Any, folder: Path, on_step: Any = lambda _: None, rows: TokenRows = ROWS, **limits: Any) -> Outcome:
    folder.mkdir(exist_ok=True)
    log = events.Log(folder / "events.jsonl")
    return train(model, objective("sft"), Settled(rows, rows, UPDATES), settings(**limits), folder, log, on_step)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def steps(folder: Path) -> list[events.Step]:
    return seen(events.Log(folder / "events.jsonl"), events.Step)


def test_when_the_time_is_up_the_best_weights_stay(tmp_path: Path) -> None:
    outcome = go(tuned(TUNED["lora"]), tmp_path, lambda _: time.sleep(0.05), seconds=0.2)
    assert 1 <= outcome.steps < len(UPDATES)
    assert outcome.stopped == "the time of 0 s is up"
    assert outcome.best_step == outcome.steps
    assert seen(events.Log(tmp_path / "events.jsonl"), events.Stopped)[-1].step == outcome.steps


def test_eight_bits_of_optimizer_learn_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    model = tuned(Lora(kind="lora", rank=64))  # tensors below 4,096 values are kept in 32 bits
    limits = {"optimizer": "adamw_8bit", "checkpoint_every": 2}
    go(model, tmp_path / "whole", **limits)
    found = steps(tmp_path / "whole")
    assert found[-1].loss < 0.8 * found[0].loss
    state = make_optimizer(model, settings(optimizer="adamw_8bit"))
    assert type(state).__name__ == "AdamW8bit"

    def die(step: events.Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tuned(Lora(kind="lora", rank=64)), tmp_path / "killed", die, **limits)
    again = tuned(Lora(kind="lora", rank=64))
    go(again, tmp_path / "killed", **limits)
    assert all(torch.equal(weights(model)[name], found) for name, found in weights(again).items())


def test_lora_plus_lets_b_learn_faster(tmp_path: Path) -> None:
    before = weights(tuned(TUNED["lora"]))
    moved = {}
    for factor in (1.0, 8.0):
        model = tuned(TUNED["lora"])
        optimizer = make_optimizer(model, settings(lora_plus=factor))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * group["factor"]
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved[factor] = {name: (p - before[name]).abs().mean().item() for name, p in weights(model).items()}
    for name in before:
        ratio = moved[8.0][name] / moved[1.0][name]
        assert ratio == pytest.approx(8.0 if "lora_B" in name else 1.0, rel=0.01)


@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_recomputing_activations_changes_nothing_but_memory(kind: str, tmp_path: Path) -> None:
    """Both blocks whole, one whole and one in its cheap parts, both in their cheap parts."""
    found = []
    for whole, cheap in ((0, 0), (2, 0), (1, 1), (0, 2)):
        model = tuned(TUNED[kind])
        make_fast(model)
        go(model, tmp_path / f"{whole}-{cheap}", recompute=whole, cheap=cheap)
        found.append(steps(tmp_path / f"{whole}-{cheap}"))
    kept = found[0]
    for again in found[1:]:
        assert [step.loss for step in again] == pytest.approx([step.loss for step in kept], rel=1e-6)
        assert [step.gradient_norm for step in again] == pytest.approx([step.gradient_norm for step in kept], rel=1e-5)


def held_and_done(whole: int, cheap: int) -> tuple[int, int]:
    """Numbers that autograd holds for the backward pass, and operations in products of both passes."""
    model = tuned(TUNED["full"]).train()
    if whole or cheap:
        recompute(model, whole, cheap)
    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    batch = Forward(True, 0, torch.float32, torch.device("cpu")).lay(ROWS, range(12))
    with attention(causal_model(model), NAME), FlopCounterMode(display=False) as flops:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = objective("sft").loss(model, batch).total
        loss.backward()
    return sum(sizes), flops.get_total_flops()


def test_recomputing_holds_less_and_does_only_what_it_says_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything again is more products, block by block; cheap parts again are none."""
    monkeypatch.setattr("luthier.models.recompute.NARROW", 32)  # wide for so small a model
    nothing, one, both, cheap = (held_and_done(*given) for given in ((0, 0), (1, 0), (2, 0), (0, 2)))
    assert both[0] < one[0] < nothing[0]
    assert both[0] < 0.4 * nothing[0]
    assert both[1] - one[1] == one[1] - nothing[1] > 0
    assert cheap[1] == nothing[1]


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked(keep: int, tmp_path: Path) -> None:
    go(tuned(TUNED["lora"]), tmp_path, checkpoint_every=1, keep=keep)
    last = len(UPDATES)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in range(last - keep, last)]


def test_the_smoothed_loss_is_an_unbiased_mean_of_the_last(tmp_path: Path) -> None:
    go(tuned(TUNED["lora"]), tmp_path)
    found = steps(tmp_path)
    weighted = [SMOOTHING ** (len(found) - 1 - k) for k in range(len(found))]
    expected = sum(w * step.loss for w, step in zip(weighted, found, strict=True)) / sum(weighted)
    assert found[0].smooth_loss == pytest.approx(found[0].loss)
    assert found[-1].smooth_loss == pytest.approx(expected)


def job(folder: Path, objective_kind: str = "sft", words: Any = None, **training: Any) -> events.Log:
    dataset = folder / "dataset"
    dataset.mkdir(exist_ok=True)
    for side in ("train", "validation"):
        save(dataset / f"{side}.safetensors", ROWS)
    given = {"name": "t", "data": {"sources": [{"path": "x"}]}, "training": {"epochs": 2, **training}}
    recipe = build_recipe(given | {"objective": {"kind": objective_kind}})
    (folder / "out").mkdir(exist_ok=True)
    log = events.Log(folder / "log.jsonl")
    plan = PLAN | {"memory_available": training.get("memory_available", 10**10)}
    fit(Job(recipe, TUNED["lora"], plan, base(), dataset, folder / "out"), words or tokenizer(), log)
    return log


def test_memory_is_predicted_tried_and_measured(tmp_path: Path) -> None:
    found = seen(job(tmp_path), events.MemoryMeasured)
    assert [event.probe for event in found] == [True, False]
    assert all(event.predicted == 10**9 for event in found)
    assert all(10**8 < event.measured < 10**10 for event in found)


def test_the_trial_can_be_left_out_and_leaves_no_trace(tmp_path: Path) -> None:
    curves = []
    for name, probe in (("with", True), ("without", False)):
        (tmp_path / name).mkdir()
        log = job(tmp_path / name, probe=probe)
        assert len(seen(log, events.MemoryMeasured)) == 1 + probe
        curves.append([step.loss for step in seen(log, events.Step)])
    assert curves[0] == curves[1]


def test_a_pad_token_that_ends_rows_is_refused_where_it_would_move_the_score(tmp_path: Path) -> None:
    words = _without_pad()
    save_pairs = {"objective_kind": "reward", "words": words}
    with pytest.raises(DataError, match="also ends rows, so whoever opens the reward model"):
        job(tmp_path, **save_pairs)


def _without_pad() -> Any:
    from copy import deepcopy

    words = deepcopy(tokenizer())
    newline = words.convert_ids_to_tokens(int(ROWS.ids[ROWS.starts[1] - 1]))
    words.pad_token = newline
    return words
