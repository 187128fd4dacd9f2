"""The gate: every form of rule passes, fails and stays undecided where it should, and saboteurs are caught."""

import itertools
from collections.abc import Sequence

import pytest

from luthier.errors import RecipeError
from luthier.evaluate.answers import LOSS_METRIC, PERPLEXITY, STOP_METRIC
from luthier.evaluate.gate import Results, judge, rules_of
from luthier.evaluate.metrics import items_needed, share
from luthier.recipe import Gate, parse_rule
from luthier.types import Metric


def results(stops: float = 1.0, losses: Sequence[float] = (1.0, 1.2, 0.8, 1.1), **scores: Sequence[float]) -> Results:
    metrics = {name: share(name, given) for name, given in scores.items()}
    metrics[STOP_METRIC] = Metric(STOP_METRIC, stops, stops, stops, 100)
    for name in (LOSS_METRIC, PERPLEXITY):
        metrics[name] = Metric(name, sum(losses) / len(losses), 0, 9, len(losses))
    return Results(metrics, {**scores, LOSS_METRIC: [-loss for loss in losses]})


def verdict(rule: str, before: Results, after: Results) -> str:
    return str(judge([parse_rule(rule)], before, after)["verdict"])


def scored(right: int, n: int = 200) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (scored(20), scored(80), "pass"),
        (scored(80), scored(80), "fail"),
        (scored(80), scored(60), "fail"),
        (scored(80), scored(82), "inconclusive"),
    ],
)
def test_improves(before: list[float], after: list[float], expected: str) -> None:
    assert verdict("skill improves", results(skill=before), results(skill=after)) == expected


@pytest.mark.parametrize(
    ("after", "n", "expected"),
    [
        (900, 1000, "pass"),
        (895, 1000, "pass"),
        (850, 1000, "fail"),
        (875, 1000, "inconclusive"),
        (18, 20, "inconclusive"),
    ],
)
def test_drops_at_most(after: int, n: int, expected: str) -> None:
    """A small suite cannot pass by being noisy: no drop seen on 20 items leaves room for one of more than 0.03."""
    before = scored(int(0.9 * n), n)
    assert verdict("kept drops at most 0.03", results(kept=before), results(kept=scored(after, n))) == expected


def test_bounds_read_the_value_after_training() -> None:
    rule = f"{STOP_METRIC} at least 0.95"
    assert verdict(rule, results(stops=0.1), results(stops=0.95)) == "pass"
    assert verdict(rule, results(stops=1.0), results(stops=0.94)) == "fail"
    assert verdict(f"{PERPLEXITY} at most 1.5", results(), results(losses=(1.4, 1.4))) == "pass"
    assert verdict(f"{PERPLEXITY} at most 1.5", results(), results(losses=(1.6, 1.6))) == "fail"


def test_losses_improve_downwards() -> None:
    high, low = [3.0 + 0.1 * (i % 5) for i in range(40)], [1.0 + 0.1 * (i % 7) for i in range(40)]
    for metric in (LOSS_METRIC, PERPLEXITY):
        assert verdict(f"{metric} improves", results(losses=high), results(losses=low)) == "pass"
        assert verdict(f"{metric} improves", results(losses=low), results(losses=high)) == "fail"


@pytest.mark.parametrize("verdicts", list(itertools.product(["pass", "fail", "inconclusive"], repeat=2)))
def test_the_verdict_is_the_worst_of_the_rules(verdicts: tuple[str, str]) -> None:
    after = {"pass": scored(150), "fail": scored(10), "inconclusive": scored(82)}
    first, second = verdicts
    rules = [parse_rule("a improves"), parse_rule("b improves")]
    found = judge(rules, results(a=scored(80), b=scored(80)), results(a=after[first], b=after[second]))
    worst = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    assert [rule["verdict"] for rule in found["rules"]] == list(verdicts)
    assert found["verdict"] == worst


def test_the_default_rules_catch_saboteurs_and_let_a_good_model_pass() -> None:
    rules = rules_of(Gate(), ["exact_match"], ["skills"])
    assert [rule.text for rule in rules] == [
        "exact_match improves",
        "skills drops at most 0.03",
        "ends_with_stop at least 0.95",
    ]
    before = results(exact_match=scored(0), skills=scored(860, 1000))
    good = results(exact_match=scored(150), skills=scored(860, 1000))
    assert judge(rules, before, good)["verdict"] == "pass"
    tenth_wrong = [0.0 if i % 10 == 0 else s for i, s in enumerate(scored(860, 1000))]
    saboteurs = {
        "refuses everything": results(exact_match=scored(0), skills=scored(0, 1000)),
        "a tenth of the answers wrong": results(exact_match=scored(150), skills=tenth_wrong),
        "no end token": results(exact_match=scored(150), skills=scored(860, 1000), stops=0.2),
        "nothing learned": results(exact_match=scored(0), skills=scored(860, 1000)),
    }
    for name, bad in saboteurs.items():
        assert judge(rules, before, bad)["verdict"] == "fail", name


def test_no_change_never_fails_retention_and_never_passes_improves() -> None:
    same = results(skill=scored(700, 1000))
    assert verdict("skill drops at most 0.03", same, same) == "pass"
    assert verdict("skill improves", same, same) == "fail"


def test_text_without_a_task_must_lower_its_loss() -> None:
    assert [rule.text for rule in rules_of(Gate(), [], [])] == ["validation_loss improves"]


def test_a_rule_about_something_unmeasured_names_what_is_measured() -> None:
    with pytest.raises(RecipeError, match=r"'bleu' is not measured; measured are ends_with_stop, exact_match"):
        rules_of(Gate(rules=["bleu improves"]), ["exact_match"], [])


def test_items_needed_agrees_with_the_published_table() -> None:
    """One-sided 5 %, power 80 %: the table of paired designs (discordance, gap) -> items."""
    assert items_needed(0.02, 0.10) == pytest.approx(1544, rel=0.01)
    assert items_needed(0.05, 0.25) == pytest.approx(617, rel=0.01)
