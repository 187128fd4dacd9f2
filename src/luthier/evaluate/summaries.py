"""From answers to metrics: means over items, corpus BLEU, pass@k, perplexity. Each counts what could not be scored."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from luthier.evaluate.answers import LENGTH_METRIC
from luthier.evaluate.items import Summary
from luthier.evaluate.metrics import mean_per_token, mean_score, share
from luthier.evaluate.resample import Array, bootstrap, by_cluster, pass_at_k
from luthier.evaluate.scorers import BLEU_PARTS
from luthier.types import Answer, Metric

RESAMPLES = 2_000  # for intervals that are only shown


def judged(answers: Sequence[Answer]) -> list[Answer]:
    """The answers that could be scored."""
    return [answer for answer in answers if answer.outcome != "failed"]


def counted(metric: Metric, answers: Sequence[Answer]) -> Metric:
    """The metric with the counts of outcomes."""
    counts = Counter(answer.outcome for answer in answers)
    return replace(metric, empty=counts["empty"], unparsed=counts["unparsed"], failed=counts["failed"])


def nothing(name: str) -> Metric:
    """The metric of a task of which no answer could be scored: not a number, bounded by nothing."""
    return Metric(name, math.nan, 0.0, 1.0, 0)


def means(name: str, answers: Sequence[Answer]) -> list[Metric]:
    """The mean score over items, and one metric `name.part` for each part of the scores."""
    good = judged(answers)
    if not good:
        return [counted(nothing(name), answers)]
    items = [answer.cluster for answer in good]
    found = [counted(mean_score(name, by_cluster([a.score for a in good], items)), answers)]
    for part in good[0].parts:
        values = by_cluster([a.parts.get(part, 0.0) for a in good], items)
        found.append(mean_score(f"{name}.{part}", values))
    return found


def corpus_bleu(name: str, answers: Sequence[Answer]) -> list[Metric]:
    """BLEU of the corpus, 0 to 1, from summed counts; its interval draws sentences."""
    good = judged(answers)
    if not good:
        return [counted(nothing(name), answers)]
    rows = np.array([[answer.parts[part] for part in BLEU_PARTS] for answer in good])
    n = len(rows)
    value, low, high = bootstrap(rows, statistic=lambda drawn: bleu_of(drawn * n), resamples=RESAMPLES)
    return [counted(Metric(name, value, low, high, n), answers)]


def bleu_of(sums: Array) -> Array:
    """BLEU from summed counts [k, parts]: geometric mean of four precisions, times the brevity penalty.

    An order without any match counts as half a match, a quarter for the next such order, and so on (smoothing `exp`).
    """
    length, reference = sums[:, 0], sums[:, 1]
    correct, total = sums[:, 2:6], sums[:, 6:10]
    none = (correct == 0) & (total > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(none, 0.5 ** np.cumsum(none, axis=1), correct) / total
        logs = np.log(precision).mean(axis=1)
        brevity = np.where(length < reference, 1 - reference / length, 0.0)
        value: Array = np.where((total > 0).all(axis=1) & (correct.sum(axis=1) > 0), np.exp(logs + brevity), 0.0)
    return value


def pass_at(ks: Sequence[int]) -> Summary:
    """The summary for programs: pass@k for each k, by the unbiased estimate, averaged over items."""
    return partial(_pass_at, tuple(ks))


def _pass_at(ks: tuple[int, ...], name: str, answers: Sequence[Answer]) -> list[Metric]:
    good = judged(answers)
    if not good:
        return [counted(nothing(name), answers)]
    tried: dict[str, list[float]] = {}
    for answer in good:
        tried.setdefault(answer.item, []).append(answer.score)
    found = []
    for k in ks:
        # A program whose sandbox failed is no sample; an item with fewer than k of them cannot be estimated.
        values = [pass_at_k(len(s), int(sum(s)), k) for s in tried.values() if len(s) >= k]
        label = name if k == ks[0] else f"{name}.pass@{k}"
        found.append(counted(mean_score(label, values) if values else nothing(label), answers))
    return found


def perplexity(name: str, answers: Sequence[Answer]) -> list[Metric]:
    """Perplexity per token, with texts as what is drawn; `name.bits_per_byte` compares models across tokenizers."""
    good = judged(answers)
    if not good:
        return [counted(nothing(name), answers)]
    nats = [answer.parts["nats"] for answer in good]
    loss = mean_per_token(name, nats, [int(answer.parts["tokens"]) for answer in good])
    byte = mean_per_token(f"{name}.bits_per_byte", nats, [int(answer.parts["bytes"]) for answer in good])
    value, low, high = (math.exp(min(x, 700.0)) for x in (loss.value, loss.low, loss.high))
    found = Metric(name, value, low, high, loss.n, lower_is_better=True)
    bits = math.log(2)
    return [
        counted(found, answers),
        replace(byte, value=byte.value / bits, low=byte.low / bits, high=byte.high / bits),
    ]


def lower(name: str, answers: Sequence[Answer]) -> list[Metric]:
    """A mean of which less is better: unsafe compliance, needless refusals."""
    return [replace(metric, lower_is_better=True) for metric in means(name, answers)]


def ended(name: str, answers: Sequence[Answer]) -> Metric:
    """The share of answers that the model ended itself."""
    return share(name, [float(answer.stopped) for answer in answers])


def length_ratio(answers: Sequence[Answer]) -> Metric:
    """How long answers are against the expected ones, in characters: the median over items.

    The interval is that of the order statistics, good for any distribution (David and Nagaraja 2003, section 7.1).
    """
    ratios = sorted(len(a.answer.strip()) / max(1, len(a.expected.strip())) for a in answers)
    n = len(ratios)
    if not n:
        return nothing(LENGTH_METRIC)
    half = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor((n - 1) / 2 - half)), min(n - 1, math.ceil((n - 1) / 2 + half))
    return Metric(LENGTH_METRIC, float(np.median(ratios)), ratios[low], ratios[high], n)
