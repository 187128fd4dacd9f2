"""The rules of C4 (Raffel et al. 2020, section 2.2): lines go, then texts with few sentences, code or filler.

`plain` judges lines in Python; `compiled_c4.py` has the same as machine code, and a test holds them equal.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, cast

from luthier.data.hints import BRACE, BRACKET, FILLER, LITERALS
from luthier.data.hints import UNWANTED as UNWANTED_HINT
from luthier.data.step import PASS, Finding, Row, RowStep
from luthier.recipe import curate
from luthier.types import Example, Fate

TERMINAL = (".", "!", "?", '"', "\u201d")
CLOSING = "\"'\u201d)]"
UNWANTED = LITERALS[UNWANTED_HINT]
SENTENCE = re.compile(rf"[.!?][{re.escape(CLOSING)}]*(?=\s|$)")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
LONGEST_WORD = 1000


class Lines(NamedTuple):
    """Of each line whether it stays, how many go, and the sentences of those that stay and of all."""

    stay: Collection[Any]
    gone: int
    kept_sentences: int
    sentences: int


def plain(text: str, least_words: int) -> Lines:
    """Judge the lines of a text: a line stays that ends with punctuation and has enough words, none beyond measure."""
    lines = text.split("\n")
    stay = [_stays(line.strip(), least_words) for line in lines]
    counts = [sum(1 for _ in SENTENCE.finditer(line)) for line in lines]
    return Lines(stay, stay.count(False), sum(n for n, one in zip(counts, stay, strict=True) if one), sum(counts))


def _stays(line: str, least_words: int) -> bool:
    if not line.endswith(TERMINAL) or line.endswith("..."):
        return False
    words = line.split()
    return len(words) >= least_words and max(map(len, words)) <= LONGEST_WORD


def _plain(texts: Sequence[str], least_words: int) -> list[Lines]:
    return [plain(text, least_words) for text in texts]


@cache
def judge() -> Callable[[Sequence[str], int], list[Lines]]:
    """What judges lines: compiled where numba is installed, plain elsewhere, with the same results."""
    try:
        from luthier.data.compiled_c4 import lines
    except ImportError:
        return _plain
    return lines


def _sentences(text: str) -> int:
    return judge()([text], 0)[0].sentences


class C4(RowStep[curate.C4]):
    """Lines without punctuation, of few words or about Javascript go; then texts with few sentences, code, filler."""

    name = "c4"

    def look(self, row: Row) -> Finding:
        """The text without the lines that go, or what is wrong with it."""
        return self.look_at([row])[0]

    def look_at(self, rows: Sequence[Row]) -> list[Finding]:
        """The same for many rows: lines are judged together."""
        findings = [self._glance(row) for row in rows]
        left = [i for i, row in enumerate(rows) if row.is_document and findings[i] is PASS]
        judged = judge()([rows[i].text for i in left], self.settings.line_words)
        for i, found in zip(left, judged, strict=True):
            findings[i] = self._treat(rows[i], found)
        return findings

    def _glance(self, row: Row) -> Finding:
        """What is wrong with a whole text."""
        if not row.is_document:
            return PASS
        kinds = row.hints.kinds
        if kinds & FILLER:
            return Finding(Fate("c4", "filler text: lorem ipsum"))
        if self.settings.braces and kinds & BRACE:
            return Finding(Fate("c4", "a curly bracket"))
        return PASS

    def _treat(self, row: Row, found: Lines) -> Finding:
        """What is left of a text."""
        whole, kinds = row.text, row.hints.kinds
        text, sentences, gone, lines = whole, found.sentences, 0, len(found.stay)
        if self.settings.remove_lines:
            text, sentences, gone = self._without_lines(whole, found, unwanted=bool(kinds & UNWANTED_HINT))
            if kinds & BRACKET and (cited := CITATION.sub("", text)) != text:
                text, sentences = cited, _sentences(cited)
        if sentences < self.settings.sentences:
            reason = f"sentences: {sentences}, at least {self.settings.sentences} asked"
            return Finding(Fate("c4", reason, score=sentences))
        if text == whole:
            return PASS
        changed = replace(cast("Example", row.content), text=text)
        return Finding(changed=changed, note=f"{gone} of {lines} lines taken out")

    @staticmethod
    def _without_lines(whole: str, found: Lines, *, unwanted: bool) -> tuple[str, int, int]:
        """What is left of a text, its sentences, and how many lines went."""
        if not unwanted and not found.gone:
            return whole, found.kept_sentences, 0
        lines = whole.split("\n")
        left = [line for line, stays in zip(lines, found.stay, strict=True) if stays]
        if unwanted:
            left = [line for line in left if not any(phrase in line.lower() for phrase in UNWANTED)]
        text = "\n".join(left)
        return text, _sentences(text) if unwanted else found.kept_sentences, len(lines) - len(left)
