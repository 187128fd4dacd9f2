"""Which answer is preferred, by hand; and how much higher the loss is where nothing was trained."""

import torch
from tiny import base, pair_rows, tokenizer

from luthier.evaluate.gate import rules_of
from luthier.evaluate.preferences import preferences
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
            found = preferences(model, ROWS, tokenizer(), packed=packed)
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
