"""Training speed, side by side: each arm in a process of its own, all interleaved in one go on the same rows.

The arms take turns of a few seconds, A B C A B C, so that a slow minute of the machine falls on all of them. An arm's
number is that of its median update; beside it stands the processor's time, which a busy machine hardly changes. It
counts only where the arm passed the checks: the loss of the first update is that of a plain float32 computation, its
gradient points the same way, weights moved, the losses of later updates are those of the others, and no document of a
pack saw another.
"""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from luthier.errors import DataError, RecipeError
from luthier.models.facts import ModelFacts
from luthier.plan import find_hardware
from luthier.plan.compute import PEAKS, flops_per_token
from luthier.recipe import Full, Lora

REFERENCE, CEILING = "reference", "matmul"
UPDATES, UPDATES_OF_PAIRS = 40, 8
"""Updates that are prepared; arms that get further begin again. Of pairs fewer: each arm asks its reference first."""
WARM = 2
"""Updates of each arm that do not count."""
BOUNDS = {"loss": 1e-3, "gradient": 0.999, "rounded": 0.99, "curve": 5e-3, "rounded_curve": 1e-2}
ROUNDED = ("luthier-int8", "luthier-int8-compile", "luthier-fp8")
"""Arms whose base is rounded on purpose, which their names say."""
PACKAGES = ("torch", "transformers", "peft", "trl", "liger-kernel")


@dataclass(frozen=True, slots=True)
class Peaks:
    """Operations a second: of a large product, measured here, and by the maker's data sheet where that is known."""

    matmul: float
    datasheet: float | None


@dataclass(slots=True)
class Arm:
    """One arm's process and what it said so far."""

    name: str
    process: subprocess.Popen[str]
    said: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def listen(self) -> None:
        """Wait for its answer to the last order."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said |= json.loads(line) if line else {"error": "its process died; too little memory is the usual reason"}
        self.steps += self.said.pop("steps", [])

    def order(self, **what: Any) -> None:
        """Tell it what to do next."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    @property
    def failed(self) -> str | None:
        """Why there is no number."""
        return self.said.get("error")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured: the model's shape, the rows, what is trained, and how long."""

    shape: str = "42M"
    profile: str = "P2"
    tuning: str = "lora"
    rows: int = 4
    """Rows an update; pairs in P4."""
    longest: int | None = None
    """Most tokens of a row."""
    rounds: int = 3
    """Turns of each arm."""
    seconds: float = 8.0
    """Least time of one turn; at least one update."""
    seed: int = 0


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
    updates = UPDATES_OF_PAIRS if asked.profile == "P4" else UPDATES
    work = prepare(
        folder, asked.shape, asked.profile, asked.tuning,
        rows=asked.rows, updates=updates, longest=asked.longest, seed=asked.seed,
    )  # fmt: skip
    path = work.save()
    tell("the plain computation of the first update")
    plain = _start(path, REFERENCE)
    plain.listen()
    if not plain.failed:
        plain.order(seconds=0.0)
        plain.listen()
    _end([plain])
    if plain.failed:
        raise DataError(f"the plain computation failed: {plain.failed}", where=str(folder))
    running: list[Arm] = []
    try:
        for name in [CEILING, *arms]:
            tell(f"loading {name}")
            running.append(_start(path, name))
            running[-1].listen()
        _take_turns(running, asked, tell)
        _end(running)
    finally:
        for arm in running:
            arm.process.kill()
    return _document(work, asked, running, plain)


def _check(arms: Sequence[str], asked: Asked) -> None:
    from luthier.train.arms.worker import ARMS

    if unknown := [name for name in arms if name not in ARMS or name == REFERENCE]:
        there = ", ".join(name for name in ARMS if name != REFERENCE)
        raise RecipeError(f"unknown arms: {', '.join(unknown)}; there are: {there}", where="--arms", fix="name these")
    if asked.tuning not in ("lora", "full"):
        raise RecipeError(f"there is no tuning '{asked.tuning}' here", where="--tuning", fix="lora or full")
    if asked.profile == "P4" and (asked.tuning == "full" or "plain-peft" in arms):
        raise RecipeError(
            "pairs are compared with LoRA only, and the plain loop knows none: there is no second model",
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


def _start(work: Path, name: str) -> Arm:
    command = [sys.executable, "-m", "luthier.train.arms.worker", str(work), name]
    log = (work.parent / f"{name}.log").open("w")
    process = subprocess.Popen(  # noqa: S603 - this program itself
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
    )
    return Arm(name, process)


def _take_turns(arms: list[Arm], asked: Asked, tell: Callable[[str], None]) -> None:
    """A first turn to warm up, then the rounds, in which nobody works but one."""
    for number in range(asked.rounds + 1):
        for arm in arms:
            if arm.failed:
                continue
            tell(f"{arm.name}: {'warming up' if not number else f'turn {number} of {asked.rounds}'}")
            arm.order(seconds=asked.seconds if number else 0.0)
            arm.listen()
            if not number and arm.name != CEILING and not arm.failed:
                arm.order(seconds=0.0)
                arm.listen()


def _end(arms: Sequence[Arm]) -> None:
    for arm in arms:
        if arm.process.poll() is None and not arm.failed:
            arm.order(end=True)
            if arm.name.startswith("luthier"):  # what is checked last is said last
                arm.listen()
        if arm.process.stdin:
            arm.process.stdin.close()
        arm.process.wait(timeout=120)
        if arm.process.stdout:
            arm.process.stdout.close()


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
    kind = Full(kind="full") if tuning == "full" else Lora(kind="lora")
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
    counted = [step for step in arm.steps if step["number"] >= WARM]
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


def table(found: dict[str, Any]) -> str:
    """As Markdown, with the speed of each arm as a multiple of each of TRL's."""
    arms = found["arms"]
    peers = [arm for arm in arms if arm["arm"].startswith("trl-") and "error" not in arm]
    head = [
        "arm",
        "tokens/s",
        "labelled/s",
        "tokens/CPU s",
        *(f"x {arm['arm']}" for arm in peers),
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
        cells += [f"{arm['tokens_per_second'] / peer['tokens_per_second']:.2f}" for peer in peers]
        cells += [f"{arm['peak_memory_bytes'] / 1e6:,.0f}", mfu]
        cells += [f"{arm[name]:.2f}" for name in ("step_seconds_p50", "step_seconds_p95", "time_to_first_step")]
        cells.append("passed" if not failed else "FAILED: " + ", ".join(failed))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
