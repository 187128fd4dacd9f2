"""Scorers: what counts as the expected answer, and that published measures are the published ones."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from luthier.errors import RecipeError
from luthier.evaluate.items import Item
from luthier.evaluate.resample import pass_at_k
from luthier.evaluate.scorers import SCORERS, find_scorer, normalise
from luthier.evaluate.summaries import corpus_bleu, means, pass_at, perplexity
from luthier.types import Answer, Outcome, Score

WORDS = "the a cat sat on mat in red hat; Dog, ran. fast over hill and under bridge while sun shone".split()


def score(name: str, answer: str, expected: str, *others: str, more: Any = None, **settings: Any) -> Score:
    return find_scorer(name, settings)(answer, Item("1", expected=expected, others=others, more=more or {}))


@pytest.mark.parametrize(
    ("answer", "expected", "value"),
    [("drum", "drum", 1), (" drum\n", "drum", 1), ("Drum", "drum", 0), ("dru", "drum", 0), ("", "drum", 0)],
)
def test_exact_match(answer: str, expected: str, value: float) -> None:
    assert score("exact_match", answer, expected).value == value


@pytest.mark.parametrize(
    ("answer", "expected", "value", "outcome"),
    [
        ("6 x 7 = 42\n#### 42", "#### 42", 1, "scored"),
        ("so it is 1,234.50", "#### 1234.5", 1, "scored"),
        ("#### 42 of 100", "#### 100", 1, "scored"),
        ("first 42, then 7", "#### 42", 0, "scored"),
        ("#### -3", "#### 3", 0, "scored"),
        ("no number", "#### 3", 0, "unparsed"),
        ("", "#### 3", 0, "empty"),
        ("12. That is all.", "#### 12", 1, "scored"),
        ("1.5e3", "1500", 1, "scored"),
    ],
)
def test_final_number(answer: str, expected: str, value: float, outcome: Outcome) -> None:
    found = score("final_number", answer, expected)
    assert (found.value, found.outcome) == (value, outcome)


def test_tolerances() -> None:
    assert score("number", "about 101", "100").value == 0
    assert score("number", "about 101", "100", relative=0.011).value == 1
    assert score("number", "about 101", "100", absolute=0.5).value == 0
    assert score("number", "3.0", "7", "3").value == 1


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1),
        ("in Paris, France", "Paris", 0, 2 * 1 / (3 + 1)),
        ("a a cat", "cat cat", 0, 2 * 1 / (1 + 2)),
        ("dog", "cat", 0, 0),
        ("the", "an", 1, 1),
    ],
)
def test_squad_measures_by_hand(answer: str, expected: str, exact: float, f1: float) -> None:
    assert score("squad_em", answer, expected).value == exact
    found = score("f1", answer, expected)
    assert found.value == pytest.approx(f1)
    assert found.parts["em"] == exact
    assert score("f1", answer, "something else", expected).value == pytest.approx(f1), "the best reference counts"


def test_normal_form_is_squads() -> None:
    assert normalise("  The  U.S.A. -- an  Answer, the other ") == "usa answer other"


def test_regex_without_and_with_a_group() -> None:
    assert score("regex", "order 12-B", r"\d+-[A-Z]").value == 1
    assert score("regex", "the answer is: blue.", "blue", pattern=r"answer is: (\w+)").value == 1
    assert score("regex", "it is blue", "blue", pattern=r"answer is: (\w+)").outcome == "unparsed"
    with pytest.raises(RecipeError, match="not a regular expression"):
        score("regex", "x", "(")


def test_json_is_compared_as_values() -> None:
    assert score("json_equal", '{"b": 1.0, "a": [1]}', '{"a": [1], "b": 1}').value == 1
    assert score("json_equal", 'Here:\n```json\n{"a": 1}\n```', '{"a": 1}').value == 1
    half = score("json_equal", '{"a": 1, "b": 3}', '{"a": 1, "b": 2}')
    assert (half.value, half.parts["fields"]) == (0, 0.5)
    assert score("json_equal", '{"a": 1', '{"a": 1}').outcome == "unparsed"
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    assert score("json_schema", '{"a": 1}', "", schema=schema).value == 1
    assert score("json_schema", '{"a": "1"}', "", more={"schema": schema}).value == 0
    assert score("json_schema", "a: 1", "", schema=schema).outcome == "unparsed"


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(count)]


def test_corpus_bleu_is_sacrebleus() -> None:
    for seed in range(12):
        given, wanted, second = (sentences(9, 3 * seed + k) for k in range(3))
        answers = [
            Answer(str(i), (), w, g, (s := score("bleu", g, w, r)).value, True, parts=s.parts)
            for i, (g, w, r) in enumerate(zip(given, wanted, second, strict=True))
        ]
        (found,) = corpus_bleu("bleu", answers)
        theirs = BLEU().corpus_score(given, [wanted, second]).score / 100
        assert found.value == pytest.approx(theirs, abs=1e-6)
        assert found.low <= found.value <= found.high


def test_rouge_is_rouge_scores_with_the_best_reference() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    for given, wanted, second in zip(*(sentences(20, k) for k in range(3)), strict=True):
        found = score("rouge", given, wanted, second)
        for kind in ("rouge1", "rouge2", "rougeLsum"):
            best = max(theirs.score(ref, given)[kind].fmeasure for ref in (wanted, second))
            assert found.parts[kind] == pytest.approx(best, abs=1e-6)
    assert score("rouge", "cat", "cat sat", kind="rouge1").value == pytest.approx(2 / 3)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    """Against the definition: of all ways to draw k of n samples, those that hold a right one."""
    for n in range(1, 9):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                expected = 1 - math.comb(n - correct, k) / math.comb(n, k)
                assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


def answer(item: str, value: float, outcome: Outcome = "scored", **more: Any) -> Answer:
    return Answer(item, (), "", "", value, True, outcome=outcome, **more)


def test_samples_of_one_item_are_one_item_and_failures_are_none() -> None:
    answers = [answer("a", 1.0), answer("a", 0.0), answer("b", 1.0), answer("b", 1.0), answer("c", 0.0, "unparsed")]
    (found,) = means("m", [*answers, answer("d", 0.0, "failed"), answer("e", 0.0, "empty")])
    assert found.value == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert (found.n, found.empty, found.unparsed, found.failed) == (4, 1, 1, 1)
    (none,) = means("m", [answer("d", 0.0, "failed")])
    assert math.isnan(none.value)
    assert (none.n, none.failed) == (0, 1)


def test_pass_at_leaves_out_samples_whose_sandbox_failed() -> None:
    answers = [answer("a", v) for v in (1.0, 0.0, 0.0)] + [answer("b", 1.0), answer("b", 0.0, "failed")]
    one, two = pass_at((1, 2))("code", answers)
    assert one.value == pytest.approx((1 / 3 + 1) / 2)
    assert one.failed == 1
    assert two.name == "code.pass@2"
    assert (two.value, two.n) == (pytest.approx(2 / 3), 1)


def test_perplexity_weighs_tokens_and_bits_weigh_bytes() -> None:
    nats, tokens, sizes = np.array([10.0, 40.0]), np.array([5, 30]), np.array([20, 100])
    answers = [
        answer(str(i), 0.0, parts={"nats": n, "tokens": t, "bytes": b})
        for i, (n, t, b) in enumerate(zip(nats, tokens, sizes, strict=True))
    ]
    found, bits = perplexity("wiki", answers)
    assert found.value == pytest.approx(math.exp(50 / 35))
    assert bits.value == pytest.approx(50 / 120 / math.log(2))
    assert found.lower_is_better


def test_an_unknown_scorer_or_setting_names_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no scorer 'em'; known: exact_match, squad_em"):
        find_scorer("em")
    with pytest.raises(RecipeError, match=r"'number' has no setting 'tolerance'; it has: relative, absolute"):
        find_scorer("number", {"tolerance": 1})


@pytest.mark.parametrize("name", SCORERS)
def test_a_right_answer_scores_one_and_nothing_scores_nothing(name: str) -> None:
    right = json.dumps({"a": 7}) if name.startswith("json") else "the cat sat on 7"
    more = {"schema": {"type": "object"}}
    assert score(name, right, right, more=more).value == pytest.approx(1)
    empty = score(name, "", right, more=more)
    assert (empty.value, empty.outcome) == (0, "empty")
