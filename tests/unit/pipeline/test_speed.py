"""Training speed side by side: what is prepared, what is checked before a number counts, and what the table says."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from luthier.errors import RecipeError
from luthier.pipeline import speed
from luthier.pipeline.arms import Arm, Clock, said, take_turns
from luthier.pipeline.speed import Asked, Peaks, measure, table
from luthier.train.arms.work import END, prepare, read_work

GRADIENT = {"a": np.arange(1.0, 9.0, dtype=np.float32), "b": np.ones(5, np.float32)}


def heard(**changes: Any) -> dict[str, Any]:
    return {
        "losses": [8.0, 7.0],
        "gradient_norm": 2.0,
        "weights_moved": True,
        "trainable_parameters": 13,
        "peak_memory_bytes": 10**9,
        "time_to_first_step": 1.0,
    } | changes


def summary(folder: Path, name: str = "luthier-fp32", gradient: Any = GRADIENT, **changes: Any) -> dict[str, Any]:
    save_file(GRADIENT, folder / "gradient-reference.safetensors")
    save_file(gradient, folder / f"gradient-{name}.safetensors")
    steps = [{"number": i, "seconds": 9.0 if i < 2 else 0.5, "cpu_seconds": 0.8} for i in range(6)]
    arm = Arm(name, None, heard(**changes), steps)  # type: ignore[arg-type]
    plain = Arm("reference", None, heard())  # type: ignore[arg-type]
    return speed._summary(arm, plain, folder, [100], [40], 10**6, Peaks(10**9, None))


def test_rate_and_share_of_the_ceiling_leave_the_warm_up_out(tmp_path: Path) -> None:
    found = summary(tmp_path)
    assert found["tokens_per_second"] == 200
    assert found["labelled_tokens_per_second"] == 80
    assert found["tokens_per_cpu_second"] == 125
    assert found["mfu_matmul"] == pytest.approx(0.2)
    assert all(found["checks"].values())


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("first_loss", {"losses": [8.1, 7.0]}),
        ("gradient", {"gradient": GRADIENT | {"b": -np.ones(5, np.float32)}}),
        ("gradient", {"gradient": {"a": GRADIENT["a"]}}),
        ("gradient_not_zero", {"gradient_norm": 0.0}),
        ("weights_moved", {"weights_moved": False}),
        ("same_parameters", {"trainable_parameters": 12}),
        ("no_leak", {"leaks": True}),
    ],
)
def test_what_is_wrong_fails_its_check_alone(check: str, changes: dict[str, Any], tmp_path: Path) -> None:
    found = summary(tmp_path, **changes)
    assert [name for name, passed in found["checks"].items() if not passed] == [check]


def test_losses_that_part_company_fail(tmp_path: Path) -> None:
    found = [summary(tmp_path), summary(tmp_path, "trl-tuned", losses=[8.0, 7.2])]
    speed._compare_curves(found)
    speed._compare_rates(found)
    assert found[0]["ratios"] == {"trl-tuned": 1.0}
    assert [arm["passed"] for arm in found] == [True, False]
    text = table({"arms": [*found, {"arm": "trl-liger", "error": "not there"}]})
    assert "FAILED: curve" in text
    assert "failed: not there" in text
    assert "| 1.00 |" in text


def test_rows_are_what_the_profile_says(tmp_path: Path) -> None:
    for profile in ("P1", "P2", "P4"):
        work = prepare(tmp_path / profile, "2M", profile, "lora", rows=8, updates=6, longest=128, seed=0)
        rows = read_work(work.save()).rows
        share = rows.trained.sum() / len(rows.ids)
        if profile == "P1":
            assert set(rows.lengths.tolist()) == {128}
            assert share == pytest.approx(127 / 128)
        elif profile == "P2":
            assert 0.35 < share < 0.45
            assert rows.lengths.max() <= 128
            sizes = [int(rows.lengths[update].sum()) for update in work.updates]
            assert max(sizes) - min(sizes) <= 0.06 * 8 * 128
        else:
            for k in range(0, len(rows), 2):
                chosen, rejected = rows.row(k), rows.row(k + 1)
                at = chosen.trained.index(True)
                assert at == rejected.trained.index(True)
                assert chosen.ids[:at] == rejected.ids[:at]
                assert chosen.ids[-1] == rejected.ids[-1] == END
            assert 0.3 < share < 0.5
        again = prepare(tmp_path / "again", "2M", profile, "lora", rows=8, updates=6, longest=128, seed=0)
        assert np.array_equal(again.rows.ids, rows.ids)


def test_arms_take_turns_and_pass_their_checks(tmp_path: Path) -> None:
    found = measure(tmp_path, ["plain-peft", "luthier-fp32"], Asked("2M", "P2", "lora", 3, 64, 1, 0.1))
    assert [arm["arm"] for arm in found["arms"]] == ["plain-peft", "luthier-fp32"]
    for arm in found["arms"]:
        assert arm["passed"], arm
        assert arm["tokens_per_second"] > 0
        assert arm["peak_memory_bytes"] > 1e8
    ours = found["arms"][1]
    assert ours["checks"]["no_leak"]
    assert 0 < ours["loader_share"] < 1
    assert ours["ratios"]["plain-peft"] == ours["tokens_per_second"] / found["arms"][0]["tokens_per_second"]
    json.dumps(found)


@pytest.mark.parametrize(("last", "leaks"), [("exit", None), ("""echo '{"leaks": false}'""", False)])
def test_an_arm_may_end_with_a_last_word_or_without(last: str, leaks: bool | None) -> None:
    """Those that learn from pairs have nothing to check at the end, which is no failure."""
    pipe = subprocess.PIPE
    arm = Arm("luthier-fp32", subprocess.Popen(["sh", "-c", f"read order; {last}"], stdin=pipe, stdout=pipe, text=True))
    arm.end()
    assert arm.failed is None
    assert arm.said.get("leaks") == leaks


class Scripted(Arm):
    """An arm whose updates take a known time."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name, None)  # type: ignore[arg-type]
        self.takes = seconds

    def work(self, seconds: float) -> None:
        until = 0.0
        while until <= seconds and (until < seconds or not until):
            self.steps.append({"number": len(self.steps), "seconds": self.takes})
            until += self.takes


def test_every_arm_gets_its_time_and_a_slow_one_a_single_update() -> None:
    arms = [Scripted("matmul", 0.1), Scripted("trl-default", 60.0), Scripted("trl-tuned", 3.0)]
    told: list[str] = []
    take_turns(arms, Clock(rounds=3, seconds=8.0, plain=2.0, slower=12.0), told.append)
    assert len(arms[1].steps) == 2
    assert arms[1].worked == 60
    assert len(arms[2].counted) == 9
    assert sum("trl-default" in line for line in told) == 2


def test_what_is_left_is_guessed_first_and_known_later() -> None:
    clock = Clock(rounds=3, seconds=8.0, starting=5.0, plain=3.0, slower=12.0)
    guessed = clock.left([], ["trl-default", "luthier-fp32"])
    # two starts; a warm update and one that counts at 12 x 4/3 x 3 s; two warm ones and three turns
    assert guessed == 2 * 5 + 2 * 48 + 2 * 3 + 24
    slow, own = Scripted("trl-default", 100.0), Scripted("luthier-fp32", 3.0)
    slow.work(0.0)
    own.work(0.0)
    assert clock.left([slow, own]) == 100 + 3 + 24
    slow.warm = 1
    slow.work(0.0)
    assert clock.left([slow]) == 0
    assert said(37) == "about 40 s"
    assert said(314) == "about 5 minutes"


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": ["nobody"]},
        {"shape": "9M"},
        {"profile": "P9"},
        {"tuning": "prompt"},
        {"profile": "P4", "tuning": "full"},
    ],
    ids=str,
)
def test_what_is_not_there_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    arms = changes.get("arms", ["luthier-fp32"])
    with pytest.raises(RecipeError, match="there"):
        measure(tmp_path, arms, replace(Asked("2M", longest=64), **{k: v for k, v in changes.items() if k != "arms"}))


def test_bars_of_a_gpu_are_judged_by_arms_that_passed() -> None:
    path = Path(speed.__file__).parents[3] / "bench" / "gpu.py"
    loaded = importlib.util.spec_from_file_location("bench_gpu", path)
    assert loaded is not None
    assert loaded.loader is not None
    gpu = importlib.util.module_from_spec(loaded)
    sys.modules["bench_gpu"] = gpu
    loaded.loader.exec_module(gpu)
    asked = {one.name: one for one in gpu.MEASUREMENTS}
    for one in gpu.MEASUREMENTS:
        speed._check(one.arms, one.asked)
        assert all(set(bar.arms) <= set(one.arms) for bar in one.bars)
        assert all(bar.over in asked for bar in one.bars if isinstance(bar.over, str))

    def arm(name: str, rate: float, memory: float = 1e9, *, passed: bool = True) -> dict[str, Any]:
        return {"arm": name, "tokens_per_second": rate, "peak_memory_bytes": memory, "passed": passed}

    lora = {
        "arms": [arm("luthier-fp32", 18_000), arm("luthier-compile", 30_000, passed=False), arm("trl-tuned", 17_900)]
    }
    four = {"arms": [arm("luthier-fp32", 17_000, 9e9)]}
    found = {"llama-8b": lora, "llama-8b-short": {"arms": [arm("luthier-fp32", 20_000)]}, "llama-8b-qlora": four}
    exact, peers, eight = (gpu.judge(bar, lora, found) for bar in asked["llama-8b"].bars)
    assert (exact["measured"], exact["reached"], peers["reached"], eight["reached"]) == (18_000, True, True, None)
    ratio, peak = (gpu.judge(bar, four, found) for bar in asked["llama-8b-qlora"].bars)
    assert ratio["measured"] == 0.85
    assert (ratio["reached"], peak["reached"]) == (False, False)
