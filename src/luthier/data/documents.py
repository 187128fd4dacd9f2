"""Rules of well-known pre-training corpora, for plain texts only. Of good answers to questions they refuse most.

The constants are those of the papers and stand as defaults in `recipe/curate.py`, those of repetition here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from luthier.data.statistics import Statistics, Table, tabulate, written_together
from luthier.data.step import PASS, Finding, Row, RowStep, SettingsT, counts_of
from luthier.recipe import curate
from luthier.recipe.curate import Action, Repeated
from luthier.types import Fate

RISK = 0.5
REPETITION: dict[Repeated, float] = {
    "duplicate_lines": 0.30,
    "duplicate_paragraphs": 0.30,
    "duplicate_line_letters": 0.20,
    "duplicate_paragraph_letters": 0.20,
    "top_2": 0.20,
    "top_3": 0.18,
    "top_4": 0.16,
    "duplicate_5": 0.15,
    "duplicate_6": 0.14,
    "duplicate_7": 0.13,
    "duplicate_8": 0.12,
    "duplicate_9": 0.11,
    "duplicate_10": 0.10,
}
"""Rae et al. 2021, table A1: the largest shares of a text that may be repetition."""


class Columns:
    """Statistics of many texts by their name."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Table:
        """One number of all texts, `[n]`."""
        return self._table[:, Statistics._fields.index(name)]

    def share(self, name: str, of: str) -> Table:
        """One number by another, which counts as 1 where it is 0."""
        return self[name] / np.maximum(self[of], 1)


class Rule(NamedTuple):
    """A number of a text and the bounds it must keep. `value` takes the statistics of many texts as columns."""

    what: str
    value: Callable[[Columns], Table]
    low: float | None = None
    high: float | None = None

    def broken(self, counts: Columns) -> Iterator[tuple[int, str, float]]:
        """Which texts break it, what is wrong, and by which number."""
        values = self.value(counts)
        if self.low is not None:
            for i in np.flatnonzero(values < self.low).tolist():
                yield i, f"{self.what}: {_number(values[i])}, at least {_number(self.low)} asked", float(values[i])
        if self.high is not None:
            for i in np.flatnonzero(values > self.high).tolist():
                yield i, f"{self.what}: {_number(values[i])}, at most {_number(self.high)} allowed", float(values[i])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def verdict(action: Action, name: str, reason: str, score: float | None = None, risk: float = RISK) -> Finding:
    """What a step says of a row that breaks a rule: it goes, or it is kept and looked at by a person."""
    if action == "drop":
        return Finding(Fate(name, reason, score=score))
    return Finding(risk=risk, note=reason)


class _Rules(RowStep[SettingsT]):
    """Rules over the counts of a plain text. Texts in scripts without blanks between words pass."""

    rules: tuple[Rule, ...]

    def look(self, row: Row) -> Finding:
        """The first rule that a plain text breaks."""
        return self.look_at([row])[0]

    def look_at(self, rows: Sequence[Row]) -> list[Finding]:
        """The same for many rows: each rule is tried on all of them."""
        findings = [PASS] * len(rows)
        told = [i for i, row in enumerate(rows) if row.is_document and not written_together(row.text)]
        counts = Columns(counts_of([rows[i] for i in told]))
        for rule in self.rules:
            for k, reason, score in rule.broken(counts):
                if findings[told[k]] is PASS:
                    findings[told[k]] = Finding(Fate(self.name, reason, score=score))
        return findings


class Gopher(_Rules[curate.Gopher]):
    """Length, word length, signs, bullets, ellipses, words with letters, stop words."""

    name = "gopher"

    def __init__(self, settings: curate.Gopher, around: Any) -> None:
        super().__init__(settings, around)
        s = settings
        self.rules = (
            Rule("words", lambda c: c["words"], *s.words),
            Rule("letters a word", lambda c: c.share("letters", "words"), *s.word_length),
            Rule("number signs a word", lambda c: c.share("hashes", "words"), None, s.signs),
            Rule("ellipses a word", lambda c: c.share("ellipses", "words"), None, s.signs),
            Rule("share of lines with a bullet", lambda c: c.share("bullet_lines", "lines"), None, s.bullet_lines),
            Rule(
                "share of lines with an ellipsis", lambda c: c.share("ellipsis_lines", "lines"), None, s.ellipsis_lines
            ),
            Rule("share of words with a letter", lambda c: c.share("words_with_letter", "words"), s.words_with_letter),
            Rule("stop words", lambda c: c["stop_words"], s.stop_words),
        )


class FineWeb(_Rules[curate.FineWeb]):
    """Punctuation at the end of lines, short lines, repeated lines, line ends."""

    name = "fineweb"

    def __init__(self, settings: curate.FineWeb, around: Any) -> None:
        super().__init__(settings, around)
        s = settings
        self.rules = (
            Rule("share of lines with punctuation", lambda c: c.share("ended_lines", "lines"), s.ended_lines),
            Rule("share of short lines", lambda c: c.share("short_lines", "lines"), None, s.short_lines),
            Rule(
                "share of letters in repeated lines",
                lambda c: c["duplicate_line_letters"],
                None,
                s.duplicate_line_letters,
            ),
            Rule("line ends a word", lambda c: (c["lines"] - 1) / np.maximum(c["words"], 1), None, s.lines_per_word),
        )


class Repetition(RowStep[curate.Repetition]):
    """Plain texts and answers that repeat themselves."""

    name = "repetition"

    def look(self, row: Row) -> Finding:
        """The first text of the row that repeats itself more than a limit allows."""
        return self.look_at([row])[0]

    def look_at(self, rows: Sequence[Row]) -> list[Finding]:
        """The same for many rows."""
        findings = [PASS] * len(rows)
        chats = [i for i, row in enumerate(rows) if not row.is_document]
        documents = [i for i, row in enumerate(rows) if row.is_document and self._long(row.text)]
        self._judge(documents, counts_of([rows[i] for i in documents]), self.settings.documents, findings)
        answers = [(i, text) for i in chats for text in rows[i].answers if self._long(text)]
        self._judge([i for i, _ in answers], tabulate([text for _, text in answers]), self.settings.answers, findings)
        return findings

    def _long(self, text: str) -> bool:
        return len(text) >= 2 * self.settings.least_words and not written_together(text)

    def _judge(self, owners: Sequence[int], table: Table, action: Action, findings: list[Finding]) -> None:
        """Say of each row what is wrong with the first of its texts that breaks a limit."""
        counts = Columns(table)
        enough = counts["words"] >= self.settings.least_words
        limits = REPETITION | self.settings.limits
        over = np.array([enough & (counts[name] > limit) for name, limit in limits.items()])
        for k in np.flatnonzero(over.any(axis=0)).tolist():
            name, limit = list(limits.items())[int(over[:, k].argmax())]
            share = float(counts[name][k])
            if findings[owners[k]] is PASS:
                reason = f"{name} is {share:.0%}, at most {limit:.0%} allowed"
                findings[owners[k]] = verdict(action, "repetition", reason, share)
