"""Training speed, side by side: each arm in a process of its own, all interleaved in one go on the same rows.

The arms take turns of a few seconds, A B C A B C, so that a slow minute of the machine falls on all of them. An arm's
number is that of its median update; beside it stands the processor's time, which a busy machine hardly changes. It
counts only where the arm passed the checks: the loss of the first update is that of a plain float32 computation, its
gradient points the same way, weights moved, the losses of later updates are those of the others, and no document of a
pack saw another. How turns are taken: `arms.py`.
"""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from luthier.errors import DataError, RecipeError
from luthier.models.facts import ModelFacts
from luthier.pipeline.arms import CEILING, Arm, Clock, said, start, take_turns
from luthier.plan import find_hardware
from luthier.plan.compute import PEAKS, flops_per_token
from luthier.recipe import Full, Lora

REFERENCE = "reference"
UPDATES, UPDATES_OF_PAIRS = 40, 8
"""Updates that are prepared; arms that get further begin again. Of pairs fewer: each arm asks its reference first."""
ROWS = {"P1": 2, "P2": 4, "P3": 1, "P4": 2}
"""Rows (pairs in P4) an update where nothing else is said: about a thousand tokens on a CPU."""
BOUNDS = {"loss": 1e-3, "gradient": 0.999, "rounded": 0.99, "curve": 5e-3, "rounded_curve": 1e-2}
ROUNDED = ("luthier-int8", "luthier-int8-compile", "luthier-fp8")
"""Arms whose base is rounded on purpose, which their names say."""
TUNINGS = ("lora", "qlora", "full")
NO_PAIRS = ("plain-peft", "trl-liger", "unsloth")
"""Arms that know no pairs."""
PEERS = ("trl-", "unsloth")
"""What the names of those begin with that the table compares with."""
PACKAGES = ("torch", "transformers", "peft", "trl", "liger-kernel", "unsloth", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Peaks:
    """Operations a second: of a large product, measured here, and by the maker's data sheet where that is known."""

    matmul: float
    datasheet: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured: the model's shape, the rows, what is trained, and how long."""

    shape: str = "42M"
    profile: str = "P2"
    tuning: str = "lora"
    rows: int | None = None
    """Rows an update; pairs in P4. By the profile when None: `ROWS`."""
    longest: int | None = None
    """Most tokens of a row."""
    rounds: int = 3
    """Turns of each arm."""
    seconds: float = 8.0
    """Least time of one turn; at least one update."""
    seed: int = 0
    apart: bool = False
    """One arm after another, each from its start to its end: for models of which a GPU holds only one."""
    optimizer: str = "adamw"
    """Of Luthier and its peers alike; `adamw_8bit` needs bitsandbytes."""


def measure(
    folder: Path, arms: Sequence[str], asked: Asked, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run the arms and return the JSON document of what was measured.

    Args:
        folder: for model, rows and logs.
        arms: their names.
        asked: what.
        tell: gets a line on what happens.

    Raises:
        RecipeError: unknown arm, shape, profile or tuning.
        DataError: the plain computation failed.
    """
    from luthier.train.arms.work import prepare

    _check(arms, asked)
    asked = replace(asked, rows=asked.rows or ROWS.get(asked.profile, 1))
    pairs = asked.profile == "P4"
    tell(f"{len(arms)} arms, {asked.rounds} turns of {asked.seconds:g} s each; the plain computation tells how long")
    work = prepare(
        folder, asked.shape, asked.profile, asked.tuning,
        rows=asked.rows or 1, updates=UPDATES_OF_PAIRS if pairs else UPDATES, longest=asked.longest, seed=asked.seed,
        optimizer=asked.optimizer,
    )  # fmt: skip
    path = work.save()
    plain, starting = _plain(path, folder)
    clock = Clock(asked.rounds, asked.seconds, starting, float(plain.steps[0]["seconds"]), _slower(work.device))
    clock.asked = UPDATES_OF_PAIRS if pairs else 0
    names = [CEILING, *arms]
    tell(_foretold(clock, names))
    running: list[Arm] = []
    try:
        if asked.apart:
            for number, name in enumerate(names):
                running.append(start(path, name, folder))
                running[-1].listen()
                take_turns(running[-1:], clock, tell, names[number + 1 :])
                running[-1].end()
        else:
            for number, name in enumerate(names):
                tell(f"loading {name} · {said(clock.left(running, names[number:]))} left")
                running.append(start(path, name, folder))
                running[-1].listen()
            take_turns(running, clock, tell)
            for arm in running:
                arm.end()
    finally:
        for arm in running:
            arm.process.kill()
    return _document(work, asked, running, plain)


def _plain(work: Path, folder: Path) -> tuple[Arm, float]:
    """The plain computation of the first update, and how long its process took to begin."""
    plain, begun = start(work, REFERENCE, folder), time.monotonic()
    plain.listen()
    starting = time.monotonic() - begun
    if not plain.failed:
        plain.work(0.0)
    plain.end()
    if plain.failed:
        raise DataError(f"the plain computation failed: {plain.failed}", where=str(folder))
    return plain, starting


def _slower(device: str) -> float:
    """How many times longer a product takes in bfloat16 than in float32."""
    from luthier.models.fastest import speeds

    return 1.0 if device == "cuda" else speeds().float32 / speeds().bfloat16


def _foretold(clock: Clock, names: Sequence[str]) -> str:
    """How long it will take, and which arm is to blame."""
    line = f"{said(clock.left([], names))} in all"
    slow = [name for name in names if name != CEILING and clock.guess(name) > clock.whole]
    if slow:
        one = said(clock.guess(slow[0]))
        line += f"; one update of {', '.join(slow)} takes {one}, so there will be few of them"
    return line


def _check(arms: Sequence[str], asked: Asked) -> None:
    from luthier.train.arms.worker import ARMS

    if unknown := [name for name in arms if name not in ARMS or name == REFERENCE]:
        there = ", ".join(name for name in ARMS if name != REFERENCE)
        raise RecipeError(f"unknown arms: {', '.join(unknown)}; there are: {there}", where="--arms", fix="name these")
    if asked.tuning not in TUNINGS:
        raise RecipeError(f"there is no tuning '{asked.tuning}' here", where="--tuning", fix=", ".join(TUNINGS))
    if asked.profile == "P4" and (asked.tuning == "full" or set(arms) & set(NO_PAIRS)):
        raise RecipeError(
            f"pairs are compared with LoRA only, since there is no second model, and without {', '.join(NO_PAIRS)}",
            where="--profile",
            fix="--tuning lora, --arms trl-default,trl-tuned,luthier-fp32",
        )


def _document(work: Any, asked: Asked, running: Sequence[Arm], plain: Arm) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    folder, rows, gpu = work.folder, work.rows, work.device == "cuda"
    tokens, labels = (
        [int(counts[update].sum()) for update in work.updates] for counts in (rows.lengths, rows.trained_counts)
    )
    share = sum(labels) / sum(tokens)
    flops = None
    if not work.pairs:  # what is shared in pairs is not computed twice, so there is no one number
        flops = _flops(folder / "model", work.tuning, plain.said["trainable_parameters"], rows.lengths, share)
    ceiling = _ceiling(running[0], gpu=gpu)
    hardware = find_hardware()
    peaks = Peaks(ceiling, _datasheet(hardware))
    found = [_summary(arm, plain, folder, tokens, labels, flops, peaks) for arm in running[1:]]
    _compare_curves(found)
    _compare_rates(found)
    return {
        **asdict(asked),
        "tokens_per_update": sum(tokens) / len(tokens),
        "labelled_share": share,
        "longest": int(rows.lengths.max()),
        "flops_per_token": flops,
        "matmul_flops": ceiling,
        "datasheet_flops": peaks.datasheet,
        "machine": str(hardware) if hardware.cpu in str(hardware) else f"{hardware.cpu}, {hardware}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
        "arms": found,
    }


def _ceiling(arm: Arm, *, gpu: bool) -> float:
    """Operations a second of a large product, float32 on a CPU and bfloat16 on a GPU: the fastest seen."""
    size = 8192 if gpu else 2048
    fastest: float = min(step["seconds"] for step in arm.steps)
    return 2 * float(size) ** 3 / fastest


def _flops(model: Path, tuning: str, trainable: int, lengths: Any, labelled: float) -> int:
    from luthier.models.base import Base
    from luthier.models.counting import model_facts

    facts: ModelFacts = model_facts(Base("", model, None, trust_remote_code=False))
    seen = float((lengths.astype(float) ** 2).sum() / lengths.sum())
    kind = Full(kind="full") if tuning == "full" else Lora(kind="lora")  # over 4 bits the products are the same
    return flops_per_token(facts, kind, trainable, length=seen, labelled=labelled)


def _datasheet(hardware: Any) -> float | None:
    if not hardware.gpus:
        return None
    words = hardware.gpus[0].name.upper().replace("-", " ").split()
    return max((peak for name, peak in PEAKS.items() if name in words), default=None)


def _summary(
    arm: Arm, plain: Arm, folder: Path, tokens: list[int], labels: list[int], flops: int | None, peaks: Peaks
) -> dict[str, Any]:
    """One arm's numbers and checks."""
    if arm.failed:
        return {"arm": arm.name, "error": arm.failed}
    counted = arm.counted
    rates = [tokens[step["number"] % len(tokens)] / step["seconds"] for step in counted]
    shares = [labels[step["number"] % len(labels)] / step["seconds"] for step in counted]
    worked = [tokens[step["number"] % len(tokens)] / step["cpu_seconds"] for step in counted]
    took: list[float] = sorted(step["seconds"] for step in counted)
    rate = float(np.median(rates))
    rounded = arm.name in ROUNDED
    losses = arm.said["losses"]
    off = abs(losses[0] - plain.said["losses"][0]) / abs(plain.said["losses"][0])
    cosine = _cosine(folder / f"gradient-{arm.name}.safetensors", folder / f"gradient-{REFERENCE}.safetensors")
    checks = {
        "first_loss": off <= (BOUNDS["curve"] if rounded else BOUNDS["loss"]),
        "gradient": cosine >= BOUNDS["rounded" if rounded else "gradient"],
        "gradient_not_zero": bool(arm.said["gradient_norm"]),
        "weights_moved": bool(arm.said["weights_moved"]),
        "same_parameters": arm.said["trainable_parameters"] == plain.said["trainable_parameters"],
    }
    if "leaks" in arm.said:
        checks["no_leak"] = not arm.said["leaks"]
    return {
        "arm": arm.name,
        "tokens_per_second": rate,
        "slowest_and_fastest": [min(rates), max(rates)],
        "labelled_tokens_per_second": float(np.median(shares)),
        "tokens_per_cpu_second": statistics.median(worked),
        "peak_memory_bytes": arm.said["peak_memory_bytes"],
        "step_seconds_p50": statistics.median(took),
        "step_seconds_p95": took[min(len(took) - 1, int(0.95 * len(took)))],
        "updates": len(counted),
        "loader_share": None if (laid := arm.said.get("loader_seconds")) is None else laid / statistics.median(took),
        "time_to_first_step": arm.said["time_to_first_step"],
        "compile_seconds": arm.said.get("compile_seconds"),
        "mfu_matmul": None if flops is None else flops * rate / peaks.matmul,
        "mfu_datasheet": None if flops is None or peaks.datasheet is None else flops * rate / peaks.datasheet,
        "first_loss_off": off,
        "gradient_cosine": cosine,
        "gradient_norm": arm.said["gradient_norm"],
        "losses": losses,
        "checks": checks,
    }


def _cosine(one: Path, other: Path) -> float:
    """Cosine of the angle between two gradients, over what was sampled of each tensor."""
    ours, theirs = load_file(one), load_file(other)
    names = sorted(theirs)
    if set(ours) != set(names):
        return 0.0
    a, b = (np.concatenate([found[name] for name in names]).astype(np.float64) for found in (ours, theirs))
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / max(1e-300, lengths)


def _compare_curves(found: list[dict[str, Any]]) -> None:
    """Mean losses over the updates that both have seen, against the plain loop's, or else the first exact arm's."""
    there = [arm for arm in found if "error" not in arm]
    if not there:
        return
    order = ["plain-peft", "luthier-fp32", "trl-tuned"]
    truth = next((arm for name in order for arm in there if arm["arm"] == name), there[0])
    for arm in there:
        count = min(len(arm["losses"]), len(truth["losses"]))
        ours, theirs = (sum(x["losses"][:count]) / count for x in (arm, truth))
        arm["curve_off"], arm["curve_updates"] = abs(ours - theirs) / abs(theirs), count
        bound = BOUNDS["rounded_curve" if arm["arm"] in ROUNDED else "curve"]
        arm["checks"]["curve"] = arm["curve_off"] <= bound
        arm["passed"] = all(arm["checks"].values())


def _compare_rates(found: list[dict[str, Any]]) -> None:
    """Speed and memory of each arm as multiples of those of the peers."""
    there = [arm for arm in found if "error" not in arm]
    for arm in there:
        for name, key in (("ratios", "tokens_per_second"), ("memory_ratios", "peak_memory_bytes")):
            arm[name] = {peer["arm"]: arm[key] / peer[key] for peer in there if not peer["arm"].startswith("luthier")}


def table(found: dict[str, Any]) -> str:
    """As Markdown, with the speed of each arm as a multiple of each of TRL's."""
    arms = found["arms"]
    peers = [arm["arm"] for arm in arms if arm["arm"].startswith(PEERS) and "error" not in arm]
    head = [
        "arm",
        "tokens/s",
        "labelled/s",
        "tokens/CPU s",
        *(f"x {name}" for name in peers),
        "peak MB",
        "MFU",
        "p50 s",
        "p95 s",
    ]
    head += ["first step s", "checks"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 2) + " --- |"]
    for arm in arms:
        if "error" in arm:
            lines.append(f"| {arm['arm']} | failed: {arm['error']} |" + " |" * (len(head) - 2))
            continue
        failed = [name for name, passed in arm["checks"].items() if not passed]
        mfu = "" if arm["mfu_matmul"] is None else f"{arm['mfu_matmul']:.0%}"
        cells = [arm["arm"], f"{arm['tokens_per_second']:,.0f}", f"{arm['labelled_tokens_per_second']:,.0f}"]
        cells.append(f"{arm['tokens_per_cpu_second']:,.0f}")
        cells += [f"{arm['ratios'][name]:.2f}" for name in peers]
        cells += [f"{arm['peak_memory_bytes'] / 1e6:,.0f}", mfu]
        cells += [f"{arm[name]:.2f}" for name in ("step_seconds_p50", "step_seconds_p95", "time_to_first_step")]
        cells.append("passed" if not failed else "FAILED: " + ", ".join(failed))
        lines.append("| " + " | ".join(cells) + " |")
    shares = [arm["loader_share"] for arm in arms if arm.get("loader_share") is not None]
    if shares:
        lines += ["", f"Laying rows out for the model takes {max(shares):.2%} of an update of Luthier's at most."]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
