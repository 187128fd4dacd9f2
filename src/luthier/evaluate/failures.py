"""Failure modes by name, each with its evidence: what the numbers of a run look like when tuning went wrong.

| mode | alarm |
| --- | --- |
| overfitting | the validation loss rose twice in a row or ends 0.5 nats above the training loss; answers repeat rows |
| format mismatch | less than 99 % of answers end, or role tokens stand in answers |
| instruction-following collapse | an instructions suite is worse while the task is better |
| verbosity | answers longer than 1.25 or shorter than 0.8 times the expected ones, or in loops, the task no better |
| capability regression | a retention suite, or one skill of it, is worse for certain |
| safety shift | unsafe compliance or needless refusals rose |
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.evaluate.answers import LENGTH_METRIC, STOP_METRIC, Results, pairs
from luthier.evaluate.lexical import words
from luthier.evaluate.metrics import ALPHA, holm, paired
from luthier.types import Answer

ENDS = 0.99
GAP = 0.5
LONGER, SHORTER = 1.25, 0.8
LOOP = 0.5
"""A text of which more than half are repeated runs of four words goes round in circles."""
ROLE_SIGNS = ("<|im_start|>", "<|user|>", "<|assistant|>", "[INST]", "### Instruction", "<start_of_turn>")


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure mode: whether it is alarming, what shows it, and whether anything was measured that could."""

    mode: str
    alarm: bool
    evidence: str
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Training:
    """What training logged: losses at validations in order, the last training losses, and what it said of both."""

    validations: Sequence[float] = ()
    losses: Sequence[float] = ()
    overfitting: str | None = None


def find_failures(
    before: Results, after: Results, *, training: Training = Training(), repeated: float = 0.0
) -> list[dict[str, Any]]:
    """Every failure mode with its evidence.

    Args:
        before: the reference.
        after: the tuned model.
        training: what training logged.
        repeated: the share of answers that repeat a training row.
    """
    found = [
        _overfitting(training, repeated),
        _format(after),
        _instructions(before, after),
        _verbosity(before, after),
        _capabilities(before, after),
        _safety(before, after),
    ]
    return [asdict(failure) for failure in found]


def _overfitting(training: Training, repeated: float) -> Failure:
    seen = list(training.validations)
    rising = any(a < b < c for a, b, c in zip(seen, seen[1:], seen[2:], strict=False))
    gap = seen[-1] - statistics.fmean(training.losses[-10:]) if seen and training.losses else 0.0
    said = [training.overfitting.partition(": ")[2].partition(". ")[0]] if training.overfitting else []
    said += (
        [f"the validation loss rose twice in a row, from {min(seen):.3f} to {seen[-1]:.3f}"]
        if rising and not said
        else []
    )
    said += [f"it ends {gap:.2f} nats above the training loss"] if gap > GAP else []
    said += [f"{100 * repeated:.1f} % of answers repeat a training row"] if repeated > 0.01 else []
    calm = f"validation loss {min(seen):.3f} at best, {seen[-1]:.3f} at the end" if seen else "no validation was logged"
    return Failure("overfitting", bool(said), "; ".join(said) or calm, bool(said or seen))


def _written(results: Results, role: str = "task") -> list[Answer]:
    return [a for name, given in results.answers.items() if results.role(name) == role for a in given if a.tokens]


def _format(after: Results) -> Failure:
    ended = after.metrics.get(STOP_METRIC)
    answers = _written(after) + _written(after, "retention")
    signs = sum(any(sign in a.answer for sign in ROLE_SIGNS) for a in answers)
    said = [f"only {100 * ended.value:.1f} % of answers are ended by the model"] if ended and ended.value < ENDS else []
    said += [f"{signs} answers hold role tokens"] if signs else []
    calm = f"{100 * ended.value:.1f} % of answers end, none holds role tokens" if ended else "no answers were written"
    return Failure("format mismatch", bool(said), "; ".join(said) or calm, bool(said or ended))


def _change(before: Results, after: Results, role: str) -> tuple[float, float, int]:
    """The mean paired change over all suites of a role, its chance of being no worse, and items."""
    found = [p for n in after.answers if after.role(n) == role for p in pairs(before, after, n).values()]
    if not found:
        return 0.0, 1.0, 0
    gap = paired([b for b, _ in found], [a for _, a in found])
    return gap.value, gap.p_worse, len(found)


def _instructions(before: Results, after: Results) -> Failure:
    change, worse, n = _change(before, after, "instructions")
    gain, _, _ = _change(before, after, "task")
    if not n:
        return Failure("instruction-following collapse", False, "no instructions suite was asked", False)
    alarm = worse < ALPHA and gain > 0
    return Failure(
        "instruction-following collapse", alarm, f"instructions {change:+.3f} on {n} items, task {gain:+.3f}"
    )


def _loops(answer: str) -> bool:
    said = words(answer)
    runs = Counter(zip(said, said[1:], said[2:], said[3:], strict=False))
    return len(said) >= 12 and sum(n - 1 for n in runs.values()) > LOOP * sum(runs.values())


def _verbosity(before: Results, after: Results) -> Failure:
    ratio = after.metrics.get(LENGTH_METRIC)
    gain, _, _ = _change(before, after, "task")
    own = _written(after)
    loops = sum(_loops(a.answer) for a in own)
    said = []
    if ratio and not SHORTER <= ratio.value <= LONGER:
        said.append(f"answers are {ratio.value:.2f} times as long as the expected ones")
    if own and loops > 0.02 * len(own):
        said.append(f"{loops} of {len(own)} answers go round in circles")
    old, new = (statistics.median([a.tokens for a in _written(r, "retention")] or [0]) for r in (before, after))
    if old and not SHORTER <= new / old <= LONGER:
        said.append(f"answers of the retention suites went from {old:g} to {new:g} tokens")
    calm = f"answers are {ratio.value:.2f} times as long as the expected ones" if ratio else "lengths did not change"
    return Failure("verbosity", (bool(said) and gain <= 0) or loops > 0.1 * max(1, len(own)), "; ".join(said) or calm)


def _capabilities(before: Results, after: Results) -> Failure:
    """Each suite and each of its skills, by paired tests adjusted over all of them."""
    tried: list[tuple[str, float, float, int]] = []
    for name in after.answers:
        if after.role(name) != "retention":
            continue
        found = pairs(before, after, name)
        groups = {a.item: a.group for a in after.answers[name]}
        parts: dict[str, list[tuple[float, float]]] = {name: list(found.values())}
        for item, pair in found.items():
            if groups.get(item):
                parts.setdefault(f"{name}, {groups[item]}", []).append(pair)
        for label, values in parts.items():
            if values:
                gap = paired([b for b, _ in values], [a for _, a in values])
                tried.append((label, gap.value, gap.p_worse, len(values)))
    adjusted = holm([p for _, _, p, _ in tried])
    lost = [(label, change, n) for (label, change, _, n), p in zip(tried, adjusted, strict=True) if p < ALPHA]
    lost.sort(key=lambda row: row[1])
    if lost:
        return Failure("capability regression", True, "; ".join(f"{x} {c:+.2f} on {n} items" for x, c, n in lost[:6]))
    calm = "; ".join(f"{x} {c:+.3f}" for x, c, _, _ in tried if "," not in x)
    return Failure("capability regression", False, calm or "no retention suite was asked", bool(calm))


def _safety(before: Results, after: Results) -> Failure:
    said, alarm = [], False
    for name in after.answers:
        if after.role(name) == "safety" and name in before.metrics and name in after.metrics:
            found = pairs(before, after, name)
            if not found:
                continue
            gap = paired([b for b, _ in found.values()], [a for _, a in found.values()])
            alarm |= gap.p_worse < ALPHA
            said.append(f"{name} {before.metrics[name].value:.3f} to {after.metrics[name].value:.3f}")
    return Failure("safety shift", alarm, "; ".join(said) or "no safety suite was asked", bool(said))


def trade(before: Results, after: Results) -> list[dict[str, Any]]:
    """Gains and losses in one table: every task and suite with its paired difference and interval, by role."""
    rows: list[dict[str, Any]] = []
    for name in after.answers:
        found = pairs(before, after, name)
        if not found or name not in after.metrics or name not in before.metrics:
            continue
        gap = paired([b for b, _ in found.values()], [a for _, a in found.values()], 0.025)  # both bounds: 95 %
        down = after.metrics[name].lower_is_better and "nats" not in after.answers[name][0].parts
        low, high = (-gap.high, -gap.low) if down else (gap.low, gap.high)
        rows.append(
            {
                "name": name,
                "role": after.role(name),
                "before": before.metrics[name].value,
                "after": after.metrics[name].value,
                "difference": -gap.value if down else gap.value,
                "low": low,
                "high": high,
                "n": len(found),
                "better": "lower" if after.metrics[name].lower_is_better else "higher",
                "broken": sum(a < b for b, a in found.values()),
                "mended": sum(a > b for b, a in found.values()),
            }
        )
    return rows
