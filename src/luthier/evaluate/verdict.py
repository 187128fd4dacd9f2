"""A whole verdict: rules decided, against the base and the last promoted model, with all that explains it and binds it.

`verdict.json` names by hash everything it was reached on; `binds` refuses a model that it was not reached on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from luthier.artifact import digest
from luthier.errors import GateFailed
from luthier.evaluate.answers import Results
from luthier.evaluate.attribution import Trace, attribute
from luthier.evaluate.burnt import find_burnt, leaked, regurgitated
from luthier.evaluate.failures import Training, find_failures, trade
from luthier.evaluate.gate import (
    LEAKED,
    PROTECTED,
    REGURGITATED,
    Grounds,
    RuleResult,
    decide,
    worst,
)
from luthier.evaluate.lock import require_same, same_suites
from luthier.recipe import Rule
from luthier.types import Example, Metric

VERSION = 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is reached on, besides the rules.

    Attributes:
        before: the base's evaluation.
        after: the tuned model's.
        promoted: that of the model promoted last, if there is one.
        calibration: the content of `calibration.json`.
        rows: the training rows.
        training: what training logged.
        hashes: what the verdict is bound to, by name.
        look: 0 for the only one, 1 and 2 where there is a reserve.
        trace: the models on the way, where training kept some.
    """

    before: Results
    after: Results
    promoted: Results | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Example] = ()
    training: Training = field(default_factory=Training)
    hashes: Mapping[str, str] = field(default_factory=dict)
    look: int = 0
    trace: Trace | None = None


def reach(rules: Sequence[Rule], evidence: Evidence) -> dict[str, Any]:
    """The verdict.

    Raises:
        DataError: the two evaluations did not ask the same.
    """
    require_same(evidence.before.lock, evidence.after.lock)
    burnt = find_burnt(_suites(evidence.after), evidence.rows)
    after, repeated, echoes = _with_checks(evidence, burnt)
    flaky = {suite: set(noise["flaky"]) for suite, noise in evidence.calibration.items() if noise.get("flaky")}
    base = decide(rules, Grounds(evidence.before, after, flaky, burnt, evidence.look))
    promoted = _against_promoted(rules, evidence, after, flaky, burnt)
    results = [*base, *promoted]
    failing = {_task(after, rule) for rule, found in zip(rules, base, strict=True) if found.verdict == "fail"}
    suspects = [s for s in dict.fromkeys(failing) if s in after.answers and s in evidence.before.answers]
    body: dict[str, Any] = {
        "version": VERSION,
        "verdict": worst(results),
        "rules": [asdict(result) for result in results],
        "trade": trade(evidence.before, after),
        "failures": find_failures(evidence.before, after, training=evidence.training, repeated=repeated),
        "attribution": [
            attribute(s, evidence.before, after, evidence.rows, evidence.trace).to_json() for s in suspects
        ],
        "noise": {
            suite: {k: v for k, v in noise.items() if k != "flips"} for suite, noise in evidence.calibration.items()
        },
        "burnt": burnt,
        "regurgitated": echoes,
        "look": evidence.look,
        "hashes": dict(evidence.hashes),
        "suites": {name: suite["sha256"] for name, suite in after.lock["suites"].items()},
    }
    return {**body, "sha256": digest(body)}


def _suites(after: Results) -> dict[str, Any]:
    """What must not stand in the training data: everything but the validation answers, which the split keeps apart."""
    return {name: given for name, given in after.answers.items() if after.role(name) != "task"}


def _with_checks(evidence: Evidence, burnt: Mapping[str, Sequence[str]]) -> tuple[Results, float, list[str]]:
    """The results with what only the training rows can tell: leaked items and repeated rows."""
    after = evidence.after
    written = {name: [a for a in given if a.tokens] for name, given in after.answers.items()}
    own = [a for name, given in written.items() if after.role(name) == "task" for a in given]
    own = own or [a for given in written.values() for a in given]
    share, items = regurgitated(own, evidence.rows)
    echo = Metric(REGURGITATED, share, share, share, len(own), lower_is_better=True)
    metrics = {**after.metrics, REGURGITATED: echo, LEAKED: leaked(burnt, after.answers, list(_suites(after)))}
    return replace(after, metrics=metrics), share, items


def _task(after: Results, rule: Rule) -> str:
    return after.task_of(rule.metric)


def _against_promoted(
    rules: Sequence[Rule], evidence: Evidence, after: Results, flaky: Mapping[str, Any], burnt: Mapping[str, Any]
) -> list[RuleResult]:
    """No step back from the last promoted model: what the rules protect, and that tasks keep what it gained.

    Only suites that were asked alike then and now can be compared.
    """
    last = evidence.promoted
    if last is None:
        return []
    same = set(same_suites(last.lock, after.lock))
    kept = []
    for rule in rules:
        if rule.metric not in same:
            continue
        if rule.verb in PROTECTED:
            kept.append(rule)
        elif rule.verb == "improves":
            kept.append(Rule(rule.metric, "drops at most", 0.04, f"{rule.metric} drops at most 0.04"))
    return decide(kept, Grounds(last, after, flaky, burnt, evidence.look, "the last promoted model"))


def binds(verdict: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Raise unless a verdict is whole, says pass, and was reached on exactly these hashes.

    Raises:
        GateFailed: it is not.
    """
    body = {k: v for k, v in verdict.items() if k not in ("sha256", "overrides", "warnings")}
    if digest(body) != verdict.get("sha256"):
        raise GateFailed("the verdict was changed after it was reached", where="verdict.json", fix="run the gate again")
    for name, value in hashes.items():
        if verdict["hashes"].get(name) != value:
            raise GateFailed(
                f"the verdict was reached on another {name}", where="verdict.json", fix="run the gate on this model"
            )
    if verdict["verdict"] != "pass" and not (verdict["verdict"] == "inconclusive" and verdict.get("overrides")):
        raise GateFailed(f"the gate says {verdict['verdict']}", where="verdict.json", fix="nothing to serve")
