"""The gate: rules over paired results, each decided as pass, fail or inconclusive, with the reason in a sentence.

| rule | pass | fail | else inconclusive |
| --- | --- | --- | --- |
| M improves | better, one-sided p < 0.05 on the same items | not better | better, but chance could do that |
| M drops at most X | the 95 % lower bound of after - before is above -X | the drop itself exceeds X | n is too small |
| M at least X, at most X | the value after training keeps the bound | it does not | - |
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from luthier.errors import RecipeError
from luthier.evaluate.answers import LOSS_METRIC, PERPLEXITY, STOP_METRIC, read_answers
from luthier.evaluate.metrics import Z_ONE_SIDED, Difference, items_needed, paired, paired_means
from luthier.recipe import Gate, Rule, parse_rule
from luthier.types import Metric

Decision = Literal["pass", "fail", "inconclusive"]
ALPHA = 0.05
DEFAULT_DROP = 0.03
DEFAULT_STOP = 0.95
MOST_ITEMS = 20_000
"""More items than this is no advice."""


@dataclass(frozen=True, slots=True)
class Results:
    """One evaluation: metrics, and per task the score of each item in a fixed order."""

    metrics: Mapping[str, Metric]
    scores: Mapping[str, Sequence[float]]

    @classmethod
    def read(
        cls, metrics: Mapping[str, Any], answers: Iterable[str], losses: Mapping[str, Sequence[float]]
    ) -> "Results":
        """From the content of an evaluation's files; of the answers line by line."""
        given = read_answers(answers)
        scores: dict[str, Sequence[float]] = {task: [a.score for a in rows] for task, rows in given.items()}
        # Lower is better for a loss: the negative, so that every score reads the same way.
        scores[LOSS_METRIC] = [-s / max(1, n) for s, n in zip(losses["sums"], losses["tokens"], strict=True)]
        return cls({name: Metric(**value) for name, value in metrics.items()}, scores)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What became of one rule."""

    rule: str
    verdict: Decision
    before: float
    after: float
    difference: dict[str, float] | None
    n: int
    reason: str


def rules_of(gate: Gate, tasks: Sequence[str], retention: Sequence[str]) -> list[Rule]:
    """The recipe's rules or the default ones.

    Raises:
        RecipeError: a rule names a metric that the recipe does not measure.
    """
    if gate.rules is None:
        lines = [f"{task} improves" for task in tasks or [LOSS_METRIC]]
        lines += [f"{suite} drops at most {DEFAULT_DROP}" for suite in retention]
        lines += [f"{STOP_METRIC} at least {DEFAULT_STOP}"] if tasks else []
        return [parse_rule(line) for line in lines]
    measured = {LOSS_METRIC, PERPLEXITY, *tasks, *retention, *([STOP_METRIC] if tasks else [])}
    rules = [parse_rule(line) for line in gate.rules]
    for rule in rules:
        if rule.metric not in measured:
            raise RecipeError(
                f"rule '{rule.text}': '{rule.metric}' is not measured; measured are {', '.join(sorted(measured))}",
                where="gate.rules",
                fix="name one of these, or add it to evaluate.tasks or evaluate.retention",
            )
    return rules


def judge(rules: Sequence[Rule], before: Results, after: Results) -> dict[str, Any]:
    """The verdict over all rules: fail if one fails, else inconclusive if one is, else pass."""
    results = [_decide(rule, before, after) for rule in rules]
    verdicts = [result.verdict for result in results]
    worst: Decision = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    return {"verdict": worst, "rules": [asdict(result) for result in results]}


def _decide(rule: Rule, before: Results, after: Results) -> RuleResult:
    old, new = before.metrics[rule.metric], after.metrics[rule.metric]
    if rule.verb in ("at least", "at most"):
        assert rule.bound is not None
        kept = new.value >= rule.bound if rule.verb == "at least" else new.value <= rule.bound
        reason = f"{new.value:.3f}, 95 % interval {new.low:.3f} to {new.high:.3f}"
        return RuleResult(rule.text, "pass" if kept else "fail", old.value, new.value, None, new.n, reason)
    name = LOSS_METRIC if rule.metric == PERPLEXITY else rule.metric
    gap = _gap(name, before, after)
    verdict, reason = _improves(gap, new.n) if rule.verb == "improves" else _drops(gap, rule.bound or 0.0, new.n)
    shown = {"value": gap.value, "low": gap.low, "high": gap.high}
    return RuleResult(rule.text, verdict, old.value, new.value, shown, new.n, reason)


def _gap(name: str, before: Results, after: Results) -> Difference:
    old, new = before.scores[name], after.scores[name]
    return paired_means(old, new) if name == LOSS_METRIC else paired(old, new)


def _improves(gap: Difference, n: int) -> tuple[Decision, str]:
    if gap.value <= 0:
        return "fail", f"not better: {gap.value:+.3f} on {n} items"
    if gap.p_better < ALPHA:
        return "pass", f"better by {gap.value:.3f} on {n} items, p = {gap.p_better:.2g}"
    return "inconclusive", f"better by {gap.value:.3f}, but {n} items cannot rule out chance (p = {gap.p_better:.2g})"


def _drops(gap: Difference, bound: float, n: int) -> tuple[Decision, str]:
    if gap.value < -bound:
        return "fail", f"drops by {-gap.value:.3f}, more than {bound:g}"
    if gap.low > -bound:
        return "pass", f"changes by {gap.value:+.3f}; a drop of more than {max(0.0, -gap.low):.3f} is ruled out at 95 %"
    spread = (gap.high - gap.low) / 2
    more = items_needed(bound + gap.value, n * (spread / Z_ONE_SIDED) ** 2) if bound + gap.value > 0 else 0
    hint = f"; about {more:,} items would decide" if n < more < MOST_ITEMS else "; that is too close to call"
    return "inconclusive", f"changes by {gap.value:+.3f}, but {n} items cannot rule out a drop of {-gap.low:.3f}{hint}"
