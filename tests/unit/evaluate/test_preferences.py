"""Which answer is preferred, by hand; and how much higher the loss is where nothing was trained."""

import math

import pytest
import torch
from tiny import base, pair_rows, tokenizer

from luthier.evaluate.gate import rules_of
from luthier.evaluate.preferences import calibration_error, gaps, pair_metrics, preferences
from luthier.evaluate.runner import _gap
from luthier.models.load import load_model
from luthier.recipe import Gate
from luthier.types import Metric

ROWS = pair_rows(6)


def by_hand(model: torch.nn.Module, scores: bool) -> list[float]:
    values = []
    for i in range(len(ROWS)):
        row = ROWS.row(i)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits
        if scores:
            values.append(logits.item())
            continue
        logprobs = torch.log_softmax(logits[0].double(), -1)
        values.append(sum(logprobs[k - 1, row.ids[k]].item() for k in range(1, len(row.ids)) if row.trained[k]))
    return [float(values[k] > values[k + 1]) for k in range(0, len(values), 2)]


def test_the_likelier_answer_or_the_higher_score_is_preferred() -> None:
    for scores in (False, True):
        model = load_model(base(), "float32", scores=scores)
        for packed in (True, False):
            found = preferences(gaps(model, ROWS, packed=packed), ROWS, tokenizer())
            assert [answer.score for answer in found] == by_hand(model, scores)
    first = found[0]
    assert first.prompt[0].content.endswith("assistant\n")
    assert first.expected == "red 0<|im_end|>"
    assert len({answer.item for answer in found}) == 6


def test_the_gap_is_a_difference_with_both_errors() -> None:
    gap = _gap(Metric("validation_loss", 2.0, 1.7, 2.3, 40), Metric("validation_loss", 1.5, 1.1, 1.9, 40))
    assert (round(gap.value, 6), round(gap.low, 6), round(gap.high, 6)) == (0.5, 0.0, 1.0)
    assert gap.lower_is_better


def test_rules_know_what_is_measured_of_pairs_and_scores() -> None:
    assert [rule.text for rule in rules_of(Gate(), [], pairs=True)] == ["preference improves"]
    asked = ["generalisation_gap at most 0.5", "preference at least 0.7"]
    assert [rule.text for rule in rules_of(Gate(rules=asked), [], pairs=True)] == asked


def test_the_rule_of_length_stands_beside_the_preference() -> None:
    counts = ROWS.trained_counts
    longer = [(float(a > b) - float(a < b) + 1) / 2 for a, b in zip(counts[0::2], counts[1::2], strict=True)]
    mean = sum(longer) / len(longer)
    found = {m.name: m for m in pair_metrics([1.0] * 6, ROWS, None, scores=False)}
    assert found["preference"].value == 1
    assert found["preference_by_length"].value == pytest.approx(max(mean, 1 - mean))
    turned = ROWS.select([i ^ 1 for i in range(len(ROWS))])  # where training pairs prefer the other kind of length
    other = {m.name: m for m in pair_metrics([1.0] * 6, ROWS, turned, scores=False)}
    assert other["preference_by_length"].value == pytest.approx(min(mean, 1 - mean))
    assert "preference_calibration" not in other


def test_a_reward_model_that_is_as_sure_as_it_is_right_is_calibrated() -> None:
    gap = math.log(0.8 / 0.2)
    found = calibration_error([gap] * 8 + [-gap] * 2)
    assert found.value == pytest.approx(0, abs=1e-9)
    assert calibration_error([gap] * 5 + [-gap] * 5).value == pytest.approx(0.3)
    assert found.low <= found.value <= found.high
    assert found.lower_is_better
