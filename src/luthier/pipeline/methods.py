"""Every tuning on the same task and budget: what each trains, costs, learns and forgets.

Each runs as `luthier run` in a process of its own, so that its peak of memory is its own, on the rows of the embedded
recipe: three epochs without replay, since it is forgetting that is to be seen, at the plan's rates. A gate that says no
does not matter here. Each run is kept, so a bench that was stopped goes on where it was.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier import events
from luthier.errors import DataError
from luthier.pipeline.runner import default_recipe
from luthier.runs import Run, open_run
from luthier.types import Metric

METHODS: dict[str, tuple[str, ...]] = {
    "full": ("tuning={kind: full}",),
    "freeze": ("tuning={kind: freeze, blocks: 2}",),
    "lora": ("tuning={kind: lora}",),
    "lora-dora": ("tuning={kind: lora, dora: true}",),
    "lora-pissa": ("tuning={kind: lora, init: pissa}",),
    "qlora": ("tuning={kind: qlora}",),
    "adapter": ("tuning={kind: adapter}",),
    "ia3": ("tuning={kind: ia3}",),
    "prefix": ("tuning={kind: prefix}",),
    "prompt": ("tuning={kind: prompt}",),
    "p-tuning": ("tuning={kind: p-tuning}",),
}
"""Name -> what it changes in the recipe."""
TASK, RETENTION = "exact_match", "ukulele-skills"
BUDGET = ("training.learning_rate=null", "training.epochs=3", "data.replay=null")
"""What all of them have in common, and differs from the embedded recipe."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One tuning: the share of parameters trained, bytes, seconds, and metrics with their errors."""

    method: str
    trained: int
    share: float
    peak: int
    seconds: float
    task: Metric
    before: Metric
    after: Metric

    @property
    def forgotten(self) -> float:
        """How far the retention suite fell."""
        return self.before.value - self.after.value


def measure(
    folder: Path, methods: Sequence[str], overrides: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None
) -> list[Measured]:
    """Run the methods and read what they left; runs that are there already are not repeated.

    Raises:
        DataError: a run failed.
    """
    found = []
    for method in methods:
        tell(method)
        settings = [*METHODS[method], *BUDGET, *overrides]
        command = [sys.executable, "-m", "luthier", "gate", str(default_recipe()), *settings]
        done = subprocess.run(  # noqa: S603 - this program itself
            [*command, "--json", "--runs", str(folder)], capture_output=True, text=True, check=False
        )
        try:
            document = json.loads(done.stdout)
        except ValueError as error:
            raise DataError(f"'{method}' failed: {done.stderr.strip()[-500:]}", where=str(folder)) from error
        failed = document.get("error")
        if failed and failed["kind"] != "GateFailed":
            raise DataError(f"'{method}' failed: {failed['what']}", where=str(folder))
        found.append(_read(method, open_run(Path(document["run"]))))
    return found


def _read(method: str, run: Run) -> Measured:
    plan = run.artifact("plan").json("plan.json")
    trained = run.artifact("model").json("training.json")
    peaks = [e.measured for _, e in events.read(run.events) if isinstance(e, events.MemoryMeasured) and not e.probe]
    share = plan["trainable_parameters"] / plan["total_parameters"]
    names = (TASK, f"before/{RETENTION}", RETENTION)
    task, before, after = (run.metrics[name] for name in names)
    return Measured(
        method, plan["trainable_parameters"], share, max(peaks, default=0), trained["seconds"], task, before, after
    )


def table(found: Sequence[Measured]) -> str:
    """As Markdown."""
    kept = found[0].before
    lines = [
        "| tuning | trained | peak MB | seconds | task: exact match | skills kept (before: "
        f"{kept.value:.3f}, {kept.low:.3f} to {kept.high:.3f}) |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for m in found:
        task, after = (f"{x.value:.3f} ({x.low:.3f} to {x.high:.3f})" for x in (m.task, m.after))
        size = f"{m.trained:,} ({m.share:.2%})"
        lines.append(f"| {m.method} | {size} | {m.peak / 1e6:,.0f} | {m.seconds:,.0f} | {task} | {after} |")
    return "\n".join(lines) + "\n"


def to_json(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [asdict(one) for one in found]


WIDTH, HEIGHT, EDGE = 640, 420, 56


def plot(found: Sequence[Measured]) -> str:
    """An SVG: what was learned (up) against what was kept (right), each point with its 95 % intervals."""

    def x(value: float) -> float:
        return round(EDGE + value * (WIDTH - 2 * EDGE), 1)

    def y(value: float) -> float:
        return round(HEIGHT - EDGE - value * (HEIGHT - 2 * EDGE), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" ',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">general skills after tuning</text>',
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">task: exact match</text>',
    ]
    for step in range(6):
        v = step / 5
        parts += [
            f'<line x1="{x(v)}" x2="{x(v)}" y1="{y(0)}" y2="{y(1)}" stroke="#e4e4e4"/>',
            f'<line x1="{x(0)}" x2="{x(1)}" y1="{y(v)}" y2="{y(v)}" stroke="#e4e4e4"/>',
            f'<text x="{x(v)}" y="{y(0) + 16}" text-anchor="middle" fill="#555">{v:.1f}</text>',
            f'<text x="{x(0) - 6}" y="{y(v) + 4}" text-anchor="end" fill="#555">{v:.1f}</text>',
        ]
    kept = x(found[0].before.value)
    parts.append(f'<line x1="{kept}" x2="{kept}" y1="{y(0)}" y2="{y(1)}" stroke="#888" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{kept}" y="{y(1) - 8}" text-anchor="middle" fill="#555">before</text>')
    for m in found:
        cx, cy = x(m.after.value), y(m.task.value)
        parts += [
            f'<line x1="{x(m.after.low)}" x2="{x(m.after.high)}" y1="{cy}" y2="{cy}" stroke="#2f6db5" opacity=".5"/>',
            f'<line x1="{cx}" x2="{cx}" y1="{y(m.task.low)}" y2="{y(m.task.high)}" stroke="#2f6db5" opacity=".5"/>',
            f'<circle cx="{cx}" cy="{cy}" r="4" fill="#2f6db5"/>',
            f'<text x="{cx - 8}" y="{cy - 6}" text-anchor="end">{m.method}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
