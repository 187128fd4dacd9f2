"""How much of an evaluation item is in a text: copies by words in a row, paraphrases by words and numbers (TF-IDF).

Measured on 1,319 grade-school-math items and their paraphrases, with the 7,473 rows of the training part as clean ones:
words in a row find none; TF-IDF of stems finds 53 % at 1 % false alarms; with a third of the weight on numbers it finds
96 %. A paraphrase may change every word, but not what is counted.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.clusters import Signer, compiled
from luthier.data.shingles import SIGNS, U64, grams
from luthier.data.step import EvaluationItem

LONG, SHORT = 13, 8
"""Words in a row that prove a copy (Brown et al. 2020), and those that do where they cover half of an item."""
COVERED = 0.5
SIEVE = 32
"""Places of the sieve for each n words in a row: of others one in as many gets through and is looked up."""
BLANKS = dict.fromkeys(map(ord, SIGNS), " ")
COMMON = 0.01
"""Words in a row that stand in more than two items and in this share of them are a template, and prove nothing."""


class Copies:
    """Finds copies of items in texts."""

    def __init__(self, items: Sequence[EvaluationItem], signer: Signer) -> None:
        self.signer = signer
        self.words = [self._words(f"{item.prompt}\n{item.answer}") for item in items]
        self.prompts = [self._words(item.prompt).tobytes() for item in items]
        self.answers = [self._words(item.answer) for item in items]
        self.long, self.short = (_Grams(self.words, n) for n in (LONG, SHORT))
        self.whole: defaultdict[bytes, list[int]] = defaultdict(list)
        for i, found in enumerate(self.words):
            if 0 < len(found) < LONG:
                self.whole[self.prompts[i]].append(i)

    def find(self, texts: Sequence[str], prompt: str, answers: Sequence[str]) -> dict[int, float]:
        """Items copied into a row, with the share of their words that is there.

        Args:
            texts: all texts of the row, in which words in a row are looked for.
            prompt: what the row asks, compared as a whole with items of few words.
            answers: the answers of the row; one must hold the answer of such an item.
        """
        found: dict[int, float] = {}
        words = self._words("\n".join(texts))
        if shared := self.short.items(words):  # without eight words in a row there are no thirteen
            long = set(self.long.items(words))
            for item in shared:
                share = self._covered(item, words)
                if item in long or share >= COVERED:
                    found[item] = share
        for item in self.whole.get(self._words(prompt).tobytes(), ()) if self.whole else ():
            if any(_holds(self._words(answer), self.answers[item]) for answer in answers):
                found[item] = 1.0
        return found

    def _words(self, text: str) -> U64:
        """Words without the signs of arithmetic: `48/2 = <<48/2=24>>24` is five words in a row and no proof."""
        return self.signer.words(text.translate(BLANKS))

    def _covered(self, item: int, words: U64) -> float:
        """Share of an item's words that lie in eight words in a row of the text, templates left out."""
        mine = grams(self.words[item], SHORT)
        there = np.isin(mine, grams(words, SHORT)) & ~np.isin(mine, self.short.common)
        return float((np.convolve(there, np.ones(SHORT)) > 0).mean()) if len(mine) else 0.0


class _Grams:
    """Which items have which n words in a row, but for those that are common to many."""

    def __init__(self, words: Sequence[U64], n: int) -> None:
        self.n = n
        each = [np.unique(grams(one, n)) for one in words]
        values = np.concatenate(each) if each else np.zeros(0, np.uint64)
        owners = np.repeat(np.arange(len(each)), [len(one) for one in each])
        known, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        common = counts > max(2, COMMON * len(words))
        self.common = known[common]
        keep = ~common[inverse]
        order = np.argsort(values[keep], kind="stable")
        self.values, self.owners = values[keep][order], owners[keep][order]
        size = 1 << max(int(len(self.values) * SIEVE).bit_length(), 6)
        self.mask = np.uint64(size - 1)
        self.sieve = np.zeros(size, np.bool_)
        self.sieve[self.values & self.mask] = True

    def items(self, words: U64) -> list[int]:
        """The items that share n words in a row with a text."""
        mine = grams(words, self.n)
        mine = mine[self.sieve[mine & self.mask]]  # most texts end here
        first = np.searchsorted(self.values, mine, "left")
        last = np.searchsorted(self.values, mine, "right")
        hits = np.flatnonzero(last > first)
        return sorted({int(i) for k in hits for i in self.owners[first[k] : last[k]]})


def _holds(words: U64, part: U64) -> bool:
    """True when all of `part` stands in `words` in a row."""
    n = len(part)
    return n > 0 and any(np.array_equal(words[i : i + n], part) for i in range(len(words) - n + 1))


TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
STEM = 5
"""Letters that stand for a word: `produce`, `produces` and `producing` are one."""
NUMBERS = {
    **{
        word: str(i)
        for i, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
    },
    "first": "1",
    "second": "2",
    "third": "3",
    "twice": "2",
    "double": "2",
    "triple": "3",
    "thrice": "3",
    "half": "0.5",
    "dozen": "12",
    "twenty": "20",
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "hundred": "100",
}
WEIGHT_OF_NUMBERS, LEAST_NUMBERS = 0.35, 2
QUANTILE, LOWEST, HIGHEST, FEW_ITEMS, USUAL = 0.99, 0.5, 0.65, 100, 0.55
"""The threshold: what 99 % of a suite's items stay below with their nearest other item, within bounds. On the items
above it is 0.56, at which 0.6 % of the clean rows are taken for paraphrases. Suites of few items have the usual one."""
WINDOW, STRIDE = 80, 40
"""Words of a long text that are compared at a time, so that what surrounds an item does not dilute it."""


class Terms(NamedTuple):
    """Stems and numbers of a text, each with how often it is there."""

    stems: Counter[str]
    numbers: Counter[str]


def terms(text: str) -> Terms:
    """Count the stems and the numbers of a text; "three" is 3."""
    stems: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for token in TOKEN.findall(text.lower()):
        if token[0].isdigit():
            numbers[token.replace(",", "")] += 1
        elif number := NUMBERS.get(token):
            numbers[number] += 1
        else:
            stems[token[:STEM]] += 1
    return Terms(stems, numbers)


def windows(text: str) -> Iterator[str]:
    """A text whole when it is short, or piece by piece, half over half."""
    words = text.split()
    if len(words) <= WINDOW + STRIDE:
        yield text
        return
    for start in range(0, len(words) - STRIDE, STRIDE):
        yield " ".join(words[start : start + WINDOW])


def _compiled() -> Any:
    if compiled() is None:
        return None
    from luthier.data import compiled_overlap

    return compiled_overlap


class _Postings:
    """By term the items that have it, with their weights: a sparse matrix, a row a term."""

    def __init__(self, entries: Sequence[tuple[str, int, float]]) -> None:
        self.ids: dict[str, int] = {}
        rows = np.array([self.ids.setdefault(term, len(self.ids)) for term, _, _ in entries], np.int64)
        order = np.argsort(rows, kind="stable")
        self.items = np.array([item for _, item, _ in entries], np.int64)[order]
        self.values = np.array([weight for _, _, weight in entries])[order]
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(self.ids)))]).astype(np.int64)
        self.compiled = compiled()

    def of(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The items that have a term, and their weights."""
        span = slice(self.starts[row], self.starts[row + 1])
        return self.items[span], self.values[span]

    def add(self, weights: dict[str, float], total: NDArray[np.float64]) -> None:
        """Add the products of a text's vector with every item's to `total`."""
        known = [(self.ids[term], weight) for term, weight in weights.items() if term in self.ids]
        if self.compiled is None:
            for term, weight in known:
                span = slice(self.starts[term], self.starts[term + 1])
                total[self.items[span]] += weight * self.values[span]
        elif known:
            terms, factors = np.array([t for t, _ in known], np.int64), np.array([w for _, w in known])
            self.compiled.accumulate(terms, factors, self.starts, self.items, self.values, total)


class Paraphrases:
    """Finds the items that a text is near to: cosine of TF-IDF vectors of stems, and of numbers where items have any.

    Sublinear term frequency (1 + ln tf) and smoothed inverse document frequency over the items, as in scikit-learn.
    """

    def __init__(self, items: Sequence[EvaluationItem]) -> None:
        self.counted = [terms(item.prompt) for item in items]
        self.n = len(items)
        self.spread: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        for one in self.counted:
            for spread, counts in zip(self.spread, one, strict=True):
                spread.update(counts.keys())
        self.share = np.array([WEIGHT_OF_NUMBERS if len(one.numbers) >= LEAST_NUMBERS else 0.0 for one in self.counted])
        self.postings = [_Postings(list(self._entries(kind))) for kind in (0, 1)]
        self.suites = np.array([item.suite for item in items])
        self.compiled: Any = _compiled()
        self.thresholds = self._thresholds()

    def _weights(self, counts: Counter[str], kind: int) -> dict[str, float]:
        """The vector of a text, of length one. Terms of no item count in its length."""
        spread, top = self.spread[kind], 1 + self.n
        found = {t: (1 + math.log(tf)) * (math.log(top / (1 + spread[t])) + 1) for t, tf in counts.items()}
        size = math.sqrt(sum(value * value for value in found.values())) or 1.0
        return {term: value / size for term, value in found.items()}

    def _entries(self, kind: int) -> Iterator[tuple[str, int, float]]:
        """Term, item and weight of everything in the items; the two kinds share an item's weight."""
        for i, counted in enumerate(self.counted):
            share = float(self.share[i]) if kind else 1 - float(self.share[i])
            for term, weight in self._weights(counted[kind], kind).items():
                yield term, i, share * weight

    def scores(self, counted: Terms) -> NDArray[np.float64]:
        """Similarity of a text to every item, from 0 to 1, `[items]`."""
        total = np.zeros(self.n)
        for kind, counts in enumerate(counted):
            self.postings[kind].add(self._weights(counts, kind), total)
        return total

    def nearest(self, texts: Iterable[str]) -> dict[int, float]:
        """The items that a row is at least as similar to as their suite's threshold, the nearest first."""
        best = np.zeros(self.n)
        for text in texts:
            for window in windows(text):
                np.maximum(best, self.scores(terms(window)), out=best)
        found = np.flatnonzero(best >= self.thresholds)
        return {int(i): float(best[i]) for i in found[np.argsort(-best[found], kind="stable")]}

    def nearest_of(self, rows: Sequence[Sequence[str]]) -> list[dict[int, float]]:
        """The same for many rows, each some texts; those of ASCII letters go through compiled code where it is."""
        if self.compiled is None:
            return [self.nearest(texts) for texts in rows]
        plain = [i for i, texts in enumerate(rows) if not all(map(str.isascii, texts))]
        found: list[dict[int, float]] = [{} for _ in rows]
        for i in plain:
            found[i] = self.nearest(rows[i])
        quick = [i for i in range(len(rows)) if i not in set(plain)]
        hits = self.compiled.nearest([rows[i] for i in quick], self._known, self.thresholds)
        for k, item, score in sorted(hits, key=lambda hit: (hit[0], -hit[2], hit[1])):
            found[quick[k]][item] = score
        return found

    @cached_property
    def _known(self) -> Any:
        """The terms of all items, as compiled code takes them."""
        top = 1 + self.n
        terms = [
            (self.compiled.hashed(term, kind), math.log(top / (1 + self.spread[kind][term])) + 1, *postings.of(row))
            for kind, postings in enumerate(self.postings)
            for term, row in postings.ids.items()
        ]
        return self.compiled.known(terms, math.log(top) + 1)

    def _thresholds(self) -> NDArray[np.float64]:
        found = np.full(self.n, USUAL)
        for suite in np.unique(self.suites).tolist():
            mine = np.flatnonzero(self.suites == suite)
            if len(mine) < FEW_ITEMS:
                continue
            nearest = np.zeros(len(mine))
            for k, i in enumerate(mine.tolist()):
                scores = self.scores(self.counted[i])[mine]
                scores[k] = 0
                nearest[k] = scores.max()
            found[mine] = np.clip(np.quantile(nearest, QUANTILE), LOWEST, HIGHEST)
        return found
