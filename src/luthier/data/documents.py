"""Rules of well-known pre-training corpora, for plain texts only. Of good answers to questions they refuse most.

The constants are those of the papers and stand as defaults in `recipe/curate.py`, those of repetition here.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from luthier.data.statistics import Statistics, statistics, written_together
from luthier.data.step import PASS, Finding, Row, RowStep, SettingsT
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


class Rule(NamedTuple):
    """A number of a text and the bounds it must keep."""

    what: str
    value: Callable[[Statistics], float]
    low: float | None = None
    high: float | None = None

    def broken(self, counts: Statistics) -> tuple[str, float] | None:
        """What is wrong, and by which number."""
        value = self.value(counts)
        if self.low is not None and value < self.low:
            return f"{self.what}: {_number(value)}, at least {_number(self.low)} asked", value
        if self.high is not None and value > self.high:
            return f"{self.what}: {_number(value)}, at most {_number(self.high)} allowed", value
        return None


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
        if not row.is_document or written_together(row.text):
            return PASS
        counts = row.statistics
        for rule in self.rules:
            if found := rule.broken(counts):
                return Finding(Fate(self.name, found[0], score=found[1]))
        return PASS


class Gopher(_Rules[curate.Gopher]):
    """Length, word length, signs, bullets, ellipses, words with letters, stop words."""

    name = "gopher"

    def __init__(self, settings: curate.Gopher, around: Any) -> None:
        super().__init__(settings, around)
        s = settings
        self.rules = (
            Rule("words", lambda c: c.words, *s.words),
            Rule("letters a word", lambda c: c.letters / max(c.words, 1), *s.word_length),
            Rule("number signs a word", lambda c: c.hashes / max(c.words, 1), None, s.signs),
            Rule("ellipses a word", lambda c: c.ellipses / max(c.words, 1), None, s.signs),
            Rule("share of lines with a bullet", lambda c: c.bullet_lines / max(c.lines, 1), None, s.bullet_lines),
            Rule(
                "share of lines with an ellipsis", lambda c: c.ellipsis_lines / max(c.lines, 1), None, s.ellipsis_lines
            ),
            Rule("share of words with a letter", lambda c: c.words_with_letter / max(c.words, 1), s.words_with_letter),
            Rule("stop words", lambda c: c.stop_words, s.stop_words),
        )


class FineWeb(_Rules[curate.FineWeb]):
    """Punctuation at the end of lines, short lines, repeated lines, line ends."""

    name = "fineweb"

    def __init__(self, settings: curate.FineWeb, around: Any) -> None:
        super().__init__(settings, around)
        s = settings
        self.rules = (
            Rule("share of lines with punctuation", lambda c: c.ended_lines / max(c.lines, 1), s.ended_lines),
            Rule("share of short lines", lambda c: c.short_lines / max(c.lines, 1), None, s.short_lines),
            Rule(
                "share of letters in repeated lines", lambda c: c.duplicate_line_letters, None, s.duplicate_line_letters
            ),
            Rule("line ends a word", lambda c: (c.lines - 1) / max(c.words, 1), None, s.lines_per_word),
        )


class Repetition(RowStep[curate.Repetition]):
    """Plain texts and answers that repeat themselves."""

    name = "repetition"

    def look(self, row: Row) -> Finding:
        """The first text of the row that repeats itself more than a limit allows."""
        if row.is_document:
            return self._judge([row.statistics], self.settings.documents) if self._long(row.text) else PASS
        return self._judge((statistics(text) for text in row.answers if self._long(text)), self.settings.answers)

    def _long(self, text: str) -> bool:
        return len(text) >= 2 * self.settings.least_words and not written_together(text)

    def _judge(self, texts: Iterable[Statistics], action: Action) -> Finding:
        limits = REPETITION | self.settings.limits
        for counts in texts:
            if counts.words < self.settings.least_words:
                continue
            for name, limit in limits.items():
                share = getattr(counts, name)
                if share > limit:
                    return verdict(action, "repetition", f"{name} is {share:.0%}, at most {limit:.0%} allowed", share)
        return PASS
