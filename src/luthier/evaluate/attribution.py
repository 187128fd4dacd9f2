"""Why a suite got worse: which slices broke, which training rows are near, which sources stand out, and when it broke.

Over-representation is tested by Fisher's exact test, adjusted by Holm over what is compared; lift is the rate within
over the rate outside.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.evaluate.answers import Results
from luthier.evaluate.burnt import text_of
from luthier.evaluate.lexical import Nearest, words
from luthier.evaluate.metrics import ALPHA, holm
from luthier.types import Answer, Example

NEAR = 3
EXAMPLES = 3
SLICES = 6


@dataclass(frozen=True, slots=True)
class Trace:
    """Models on the way to the tuned one: after which updates, its own last; how one scores; on which suites."""

    steps: Sequence[int]
    score: Callable[[int, str, Collection[str]], float]
    suites: Collection[str]


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of what broke: its kind (a group of items, a source, an outcome, a word), counts, lift and chance."""

    kind: str
    name: str
    broken: int
    n: int
    lift: float
    p: float


@dataclass(frozen=True, slots=True)
class Attribution:
    """What stands out among the broken items of one suite."""

    suite: str
    broken: int
    mended: int
    n: int
    slices: list[Slice]
    sources: list[Slice]
    near: list[dict[str, Any]]
    broke: dict[str, Any] | None = None

    @property
    def sentence(self) -> str:
        """The suspects in one line."""
        named = [f"{s.kind} {s.name}: {s.broken} of {s.n} broke, lift {s.lift:.1f}" for s in self.slices[:2]]
        named += [f"source {s.name}: near {s.broken} of the broken items, lift {s.lift:.1f}" for s in self.sources[:1]]
        if self.broke:
            named.append(f"broke between update {self.broke['after']} and {self.broke['by']}")
        return f"{self.suite}: {self.broken} broke, {self.mended} mended of {self.n}" + "".join(f"; {x}" for x in named)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "sentence": self.sentence}


def fisher(inside: int, inside_all: int, total: int, all_: int) -> float:
    """One-sided chance of at least `inside` of `total` hits among `inside_all` of `all_` (hypergeometric tail)."""
    most = min(inside_all, total)
    ways = math.comb(all_, total)
    return (
        sum(math.comb(inside_all, k) * math.comb(all_ - inside_all, total - k) for k in range(inside, most + 1)) / ways
    )


def attribute(
    suite: str, before: Results, after: Results, rows: Sequence[Example], trace: Trace | None = None
) -> Attribution:
    """What stands out among the items of a suite that got worse.

    Args:
        suite: the task.
        before: the reference.
        after: the tuned model.
        rows: the training rows.
        trace: the models on the way, which are asked the broken items.
    """
    old, new = before.scores(suite), after.scores(suite)
    both = [item for item in old if item in new]
    broken = {item for item in both if new[item] < old[item]}
    mended = sum(new[item] > old[item] for item in both)
    answers = {answer.item: answer for answer in after.answers.get(suite, ())}
    known = [answers[item] for item in both if item in answers]
    slices = standing_out("group", {a.item: [a.group] for a in known if a.group}, broken)
    slices += standing_out("outcome", {a.item: [a.outcome, "cut" if not a.stopped else "ended"] for a in known}, broken)
    slices += standing_out("word", {a.item: sorted(set(words(_asked(a)))) for a in known}, broken)
    lost = [answers[i] for i in both if i in broken and i in answers]
    # What a model says to unsafe prompts is repeated nowhere.
    near, sources = _near(lost, rows, quote=after.role(suite) != "safety")
    broke = None
    if trace is not None and broken and suite in trace.suites:
        before_them, after_them = (sum(side[item] for item in broken) / len(broken) for side in (old, new))
        broke = broke_between(trace.steps, lambda step: trace.score(step, suite, broken), before_them, after_them)
    return Attribution(suite, len(broken), mended, len(both), slices[:SLICES], sources, near, broke)


def standing_out(kind: str, labels: Mapping[str, Sequence[str]], broken: set[str]) -> list[Slice]:
    """The labels that broken items have more often than others do, the least chance first."""
    total = len(labels)
    hits = sum(item in broken for item in labels)
    counts: Counter[str] = Counter(label for found in labels.values() for label in set(found))
    inside: Counter[str] = Counter(label for item, found in labels.items() if item in broken for label in set(found))
    tried = [label for label, n in counts.items() if 2 <= n < total and inside[label] >= 2]
    chances = [fisher(inside[label], counts[label], hits, total) for label in tried]
    found = []
    for label, p in zip(tried, holm(chances), strict=True):
        rest = (hits - inside[label]) / max(1, total - counts[label])
        lift = inside[label] / counts[label] / rest if rest else math.inf
        if p < ALPHA and lift > 1:
            found.append(Slice(kind, label, inside[label], counts[label], min(lift, 999.0), p))
    return sorted(found, key=lambda s: (s.p, -s.lift, s.name))


def _asked(answer: Answer) -> str:
    return " ".join(turn.content for turn in answer.prompt if turn.role != "system")


def _near(
    broken: Sequence[Answer], rows: Sequence[Example], *, quote: bool
) -> tuple[list[dict[str, Any]], list[Slice]]:
    """Training rows near what was asked and said, and the sources that are near more often than their size explains."""
    if not broken or not rows:
        return [], []
    index = Nearest([text_of(row) for row in rows])
    shown: list[dict[str, Any]] = []
    nearest: list[int] = []
    for answer in broken:
        found = index.find(f"{_asked(answer)} {answer.answer}", NEAR)
        nearest += [number for number, _ in found[:1]]
        if quote and len(shown) < EXAMPLES:
            near = [{"row": rows[number].where, "likeness": round(x, 3)} for number, x in found]
            shown.append({"item": answer.item, "answer": answer.answer, "expected": answer.expected, "rows": near})
    sizes = Counter(row.source for row in rows)
    hits = Counter(rows[number].source for number in nearest)
    sources = []
    for source, count in hits.items():
        share = sizes[source] / len(rows)
        if len(sizes) < 2 or count < 2:
            continue
        p = sum(
            math.comb(len(nearest), k) * share**k * (1 - share) ** (len(nearest) - k)
            for k in range(count, len(nearest) + 1)
        )
        if p * len(hits) < ALPHA:
            sources.append(Slice("source", source, count, sizes[source], count / len(nearest) / share, p * len(hits)))
    return shown, sorted(sources, key=lambda s: s.p)


def broke_between(
    steps: Sequence[int], score: Callable[[int], float], before: float, after: float
) -> dict[str, Any] | None:
    """Between which saved updates the score on the broken items fell, by bisection.

    Args:
        steps: updates of which the model was saved, rising; the base is update 0, the last one the tuned model.
        score: the mean score of the model saved at an update on the broken items.
        before: the base's score on them.
        after: the tuned model's.

    Returns:
        `after`, the last update that was still good, `by`, the first that was not, and the scores seen; None when
        nothing fell.
    """
    if not steps or after >= before:
        return None
    half = (before + after) / 2
    seen: dict[int, float] = {}
    low, high = -1, len(steps) - 1  # the base is good, the last one is not
    while high - low > 1:
        middle = (low + high) // 2
        seen[steps[middle]] = score(steps[middle])
        low, high = (low, middle) if seen[steps[middle]] < half else (middle, high)
    return {"after": steps[low] if low >= 0 else 0, "by": steps[high], "scores": seen}
