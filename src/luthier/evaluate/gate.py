"""The gate: rules over paired results, each decided as pass, fail or inconclusive, with the reason in a sentence.

| rule | pass | fail | else inconclusive |
| --- | --- | --- | --- |
| M improves | better, one-sided p < alpha on the same items | not better | chance could do that |
| M drops, rises at most X | the 1 - alpha bound of the change is within X | worse, p adjusted by Holm | too few items |
| M at least X, at most X, between X and Y | the value after training keeps the bound | it does not | - |

A suite too small to be sure cannot pass by being noisy, and a change that is within its margin for certain passes
though it is no chance. `retention` is the pooled metric of all retention suites: what is too little to see in each of
them shows there. Where it has a rule, it and Holm's family get half of alpha each, so that the chance of any false
alarm stays at alpha. "Improves" needs no adjustment: all rules must pass, which makes a false pass rarer, not likelier.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from luthier.errors import RecipeError
from luthier.evaluate.answers import (
    BY_LENGTH,
    CALIBRATION,
    FORMAT_METRIC,
    GAP,
    LENGTH_METRIC,
    LOSS_METRIC,
    PERPLEXITY,
    PREFERENCE,
    STOP_METRIC,
    Results,
    pairs,
)
from luthier.evaluate.items import Task
from luthier.evaluate.metrics import ALPHA, Difference, detectable, holm, items_needed, paired, paired_means
from luthier.recipe import Gate, Rule, parse_rule

Decision = Literal["pass", "fail", "inconclusive"]
MARGINS = {"retention": 0.04, "instructions": 0.04, "safety": 0.01}
"""By how much suites of these roles may get worse, unless they say so themselves."""
COMPARABLE = ("exact_match", "squad_em", "f1", "json_equal", "rouge", "bleu")
"""Scorers whose expected answers are as long as an answer should be."""
POOLED, POOLED_DROP = "retention", 0.02
LEAKED, REGURGITATED = "leaked", "regurgitated"
DEFAULT_STOP = 0.95
LOOKS = {1: 0.01, 2: 0.04}
"""Alpha of the first and the second look, where there is a reserve (their sum is that of a single look)."""
MOST_ITEMS = 20_000
"""More items than this is no advice."""
PROTECTED = ("drops at most", "rises at most")
BOUNDED = ("at least", "at most", "between")


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What became of one rule.

    `p` is the one-sided chance of a change at least this bad (good, for `improves`) if there were none, `adjusted` by
    Holm where there are several; `detectable` the change that these items would show in 80 of 100 cases; `needed` how
    many would decide; `left_out` items that count for nothing, flaky or seen in training.
    """

    rule: str
    verdict: Decision
    before: float
    after: float
    difference: dict[str, float] | None
    n: int
    reason: str
    against: str = "base"
    p: float | None = None
    adjusted: float | None = None
    detectable: float | None = None
    needed: int | None = None
    left_out: int = 0


def rules_of(
    gate: Gate, tasks: Sequence[Task], *, pairs: bool = False, scores: bool = False, answered: bool = True
) -> list[Rule]:
    """The recipe's rules or the default ones for these tasks, for rows that are `pairs`, for a model of `scores`.

    Rows that are not `answered` have no answer of which a loss would say anything.

    Raises:
        RecipeError: a rule names a metric that the recipe does not measure.
    """
    if gate.rules is None:
        return [
            parse_rule(line)
            for line in _default_rules(tasks, PREFERENCE if pairs else LOSS_METRIC if answered else None)
        ]
    names = [task.name for task in tasks]
    measured = {LEAKED, REGURGITATED, *names, *([PREFERENCE, BY_LENGTH] if pairs else [])}
    measured |= {CALIBRATION} if scores else set()
    measured |= set() if scores else {LOSS_METRIC, PERPLEXITY, GAP}
    if any(task.role == "retention" for task in tasks):
        measured.add(POOLED)
    if any(task.role == "task" and task.kind == "generate" for task in tasks):
        measured |= {STOP_METRIC, FORMAT_METRIC, LENGTH_METRIC}
    rules = [parse_rule(line) for line in gate.rules]
    for rule in rules:
        part_of_one = any(rule.metric.startswith(f"{name}.") for name in names)
        if rule.metric not in measured and not part_of_one:
            raise RecipeError(
                f"rule '{rule.text}': '{rule.metric}' is not measured; measured are {', '.join(sorted(measured))}",
                where="gate.rules",
                fix="name one of these, or add it to evaluate.tasks or evaluate.retention",
            )
    return rules


def _default_rules(tasks: Sequence[Task], without: str | None) -> list[str]:
    """A rule for each task, or for the metric `without` tasks; the suites, and how answers look."""
    own = [task for task in tasks if task.role == "task"]
    lines = [f"{task.name} improves" for task in own] or ([f"{without} improves"] if without else [])
    for task in tasks:
        if task.role == "regression":
            lines.append(f"{task.name} at least 1")
        elif task.role != "task":
            verb = "rises" if task.lower_is_better else "drops"
            margin = task.margin if task.margin is not None else MARGINS[task.role]
            lines.append(f"{task.name} {verb} at most {margin:g}")
    if sum(task.role == "retention" for task in tasks) > 1:
        lines.append(f"{POOLED} drops at most {POOLED_DROP:g}")
    written = [task for task in own if task.kind == "generate"]
    if written:
        lines.append(f"{STOP_METRIC} at least {DEFAULT_STOP:g}")
        lines.append(f"{REGURGITATED} at most 0.01")
        if written[0].scoring.removeprefix("generate ") in COMPARABLE:
            lines.append(f"{LENGTH_METRIC} between 0.8 and 1.25")
    if any(task.role != "task" for task in tasks):
        lines.append(f"{LEAKED} at most 0")
    return lines


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a verdict is reached on.

    Attributes:
        before: the reference.
        after: the tuned model.
        flaky: by task, items whose score changes by chance alone.
        burnt: by task, items that the model may have seen in training.
        look: 0 for the only one; 1 and 2 where there is a reserve.
        against: the reference in a word.
    """

    before: Results
    after: Results
    flaky: Mapping[str, Collection[str]]
    burnt: Mapping[str, Collection[str]]
    look: int = 0
    against: str = "base"

    @property
    def alpha(self) -> float:
        """The chance of a false alarm of this look."""
        return LOOKS.get(self.look, ALPHA)

    def left_out(self, metric: str) -> set[str]:
        """Items that count for nothing."""
        task = self.after.task_of(metric)
        return {*self.flaky.get(task, ()), *self.burnt.get(task, ())}

    def paired(self, metric: str) -> tuple[dict[str, tuple[float, float]], int]:
        """The scores before and after by item, and how many items were left out."""
        if metric != POOLED or metric in self.after.answers:
            out = self.left_out(metric)
            found = pairs(self.before, self.after, metric, out)
            return found, len(out & self.after.scores(metric).keys())
        together: dict[str, tuple[float, float]] = {}
        gone = 0
        for task in self.after.answers:
            if self.after.role(task) == "retention":
                found, out_of_it = self.paired(task)
                together |= {f"{task} {item}": pair for item, pair in found.items()}
                gone += out_of_it
        return together, gone


@dataclass(frozen=True, slots=True)
class _Measured:
    """A rule with the paired difference it is about."""

    rule: Rule
    gap: Difference
    before: float
    after: float
    n: int
    left_out: int


def judge(rules: Sequence[Rule], grounds: Grounds) -> dict[str, Any]:
    """The verdict over all rules: fail if one fails, else inconclusive if one is, else pass."""
    results = decide(rules, grounds)
    return {"verdict": worst(results), "rules": [asdict(result) for result in results]}


def worst(results: Sequence[RuleResult]) -> Decision:
    """The verdict that many results add up to."""
    verdicts = {result.verdict for result in results}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"


def decide(rules: Sequence[Rule], grounds: Grounds) -> list[RuleResult]:
    """Decide each rule, those that protect something together."""
    measured = {rule.text: _measure(rule, grounds) for rule in rules if rule.verb not in BOUNDED}
    protected = [m for m in measured.values() if m and m.rule.verb in PROTECTED]
    pooled = [m for m in protected if m.rule.metric == POOLED]
    family = [m for m in protected if m.rule.metric != POOLED]
    # With a pooled test beside the family each gets half of alpha.
    weight = 2.0 if pooled and family else 1.0
    adjusted = dict(zip([m.rule.text for m in family], holm([m.gap.p_worse for m in family]), strict=True))
    adjusted |= {m.rule.text: m.gap.p_worse for m in pooled}
    results = []
    for rule in rules:
        if rule.verb in BOUNDED:
            results.append(_bounded(rule, grounds))
            continue
        found = measured[rule.text]
        if found is None:
            results.append(_nothing(rule, grounds))
        elif rule.verb == "improves":
            results.append(_improves(found, grounds))
        else:
            results.append(_protects(found, min(1.0, weight * adjusted[rule.text]), grounds))
    return results


def _measure(rule: Rule, grounds: Grounds) -> _Measured | None:
    found, left_out = grounds.paired(rule.metric)
    if not found:
        return None
    old, new = ([pair[side] for pair in found.values()] for side in (0, 1))
    unbounded = rule.metric in (LOSS_METRIC, PERPLEXITY) or min(*old, *new) < -1
    gap = (paired_means if unbounded else paired)(old, new, grounds.alpha)
    before, after = (_value(results, rule.metric, s) for results, s in ((grounds.before, old), (grounds.after, new)))
    return _Measured(rule, gap, before, after, len(found), left_out)


def _value(results: Results, metric: str, scores: Sequence[float]) -> float:
    """The metric as it was measured; that of the pool from its scores."""
    return results.metrics[metric].value if metric in results.metrics else sum(scores) / len(scores)


def _nothing(rule: Rule, grounds: Grounds) -> RuleResult:
    reason = f"no item was answered by both models (against {grounds.against})"
    return RuleResult(rule.text, "inconclusive", 0.0, 0.0, None, 0, reason, grounds.against)


def _bounded(rule: Rule, grounds: Grounds) -> RuleResult:
    new = grounds.after.metrics.get(rule.metric)
    if new is None:
        return RuleResult(rule.text, "inconclusive", 0.0, 0.0, None, 0, f"{rule.metric} was not measured")
    old = grounds.before.metrics.get(rule.metric, new)
    assert rule.bound is not None
    kept = {
        "at least": new.value >= rule.bound,
        "at most": new.value <= rule.bound,
        "between": rule.bound <= new.value <= (rule.upper or 0.0),
    }[rule.verb]
    reason = f"{new.value:.3f}, 95 % interval {new.low:.3f} to {new.high:.3f}"
    verdict: Decision = "pass" if kept else "fail"
    if not new.n and rule.metric not in (LEAKED, REGURGITATED):
        verdict, reason = "inconclusive", "no answer could be scored"
    return RuleResult(rule.text, verdict, old.value, new.value, None, new.n, reason, grounds.against)


def _improves(m: _Measured, grounds: Grounds) -> RuleResult:
    gap, n = m.gap, m.n
    if gap.value <= 0:
        return _result(m, grounds, "fail", f"not better: {gap.value:+.3f} on {n} items", gap.p_better)
    if gap.p_better < grounds.alpha:
        reason = f"better by {gap.value:.3f} on {n} items, p = {gap.p_better:.2g}"
        return _result(m, grounds, "pass", reason, gap.p_better)
    reason = f"better by {gap.value:.3f}, but {n} items cannot rule out chance (p = {gap.p_better:.2g})"
    needed = _worth(items_needed(gap.value, gap.discordant), n)
    return _result(m, grounds, "inconclusive", reason + _advice(needed, n), gap.p_better, needed=needed)


def _protects(m: _Measured, adjusted: float, grounds: Grounds) -> RuleResult:
    """`drops at most` on scores of which more is better; those of a metric that should not rise are its negatives."""
    gap, n, bound = m.gap, m.n, m.rule.bound or 0.0
    rises = m.rule.verb == "rises at most"
    change = -gap.value if rises else gap.value
    most, verb = max(0.0, -gap.low), "rise" if rises else "drop"
    level = f"{100 * (1 - grounds.alpha):g} %"
    if gap.low > -bound:
        reason = f"changes by {change:+.3f}; a {verb} of more than {most:.3f} is ruled out at {level}"
        return _result(m, grounds, "pass", reason, gap.p_worse, adjusted)
    if adjusted < grounds.alpha:
        reason = f"{verb}s by {-gap.value:.3f} on {n} items, p = {adjusted:.2g} after adjustment"
        return _result(m, grounds, "fail", reason, gap.p_worse, adjusted)
    room = bound + gap.value
    needed = _worth(items_needed(room, gap.discordant), n) if room > 0 else None
    reason = f"changes by {change:+.3f}, but {n} items cannot rule out a {verb} of {most:.3f}{_advice(needed, n)}"
    return _result(m, grounds, "inconclusive", reason, gap.p_worse, adjusted, needed)


def _worth(needed: int, n: int) -> int | None:
    return needed if n < needed < MOST_ITEMS else None


def _advice(needed: int | None, n: int) -> str:
    return f"; about {needed - n:,} more items would decide" if needed else "; that is too close to call"


def _result(
    m: _Measured,
    grounds: Grounds,
    verdict: Decision,
    reason: str,
    p: float,
    adjusted: float | None = None,
    needed: int | None = None,
) -> RuleResult:
    return RuleResult(
        rule=m.rule.text,
        verdict=verdict,
        before=m.before,
        after=m.after,
        difference={"value": m.gap.value, "low": m.gap.low, "high": m.gap.high},
        n=m.n,
        reason=reason,
        against=grounds.against,
        p=p,
        adjusted=adjusted,
        detectable=detectable(m.gap.discordant, m.n),
        needed=needed,
        left_out=m.left_out,
    )
