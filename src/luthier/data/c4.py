"""The rules of C4 (Raffel et al. 2020, section 2.2): lines go, then texts with few sentences, code or filler.

`plain` judges lines in Python; `compiled_c4.py` has the same as machine code, and a test holds them equal.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple, cast

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
    """Of each line whether it stays, and the sentences of those that do and of all."""

    stay: Sequence[bool]
    kept_sentences: int
    sentences: int


def plain(text: str, least_words: int) -> Lines:
    """Judge the lines of a text: a line stays that ends with punctuation and has enough words, none beyond measure."""
    lines = text.split("\n")
    stay = [_stays(line.strip(), least_words) for line in lines]
    counts = [sum(1 for _ in SENTENCE.finditer(line)) for line in lines]
    return Lines(stay, sum(n for n, one in zip(counts, stay, strict=True) if one), sum(counts))


def _stays(line: str, least_words: int) -> bool:
    if not line.endswith(TERMINAL) or line.endswith("..."):
        return False
    words = line.split()
    return len(words) >= least_words and max(map(len, words)) <= LONGEST_WORD


@cache
def judge() -> Callable[[str, int], Lines]:
    """What judges lines: compiled where numba is installed, plain elsewhere, with the same results."""
    try:
        from luthier.data.compiled_c4 import lines
    except ImportError:
        return plain
    return lines


class C4(RowStep[curate.C4]):
    """Lines without punctuation, of few words or about Javascript go; then texts with few sentences, code, filler."""

    name = "c4"

    def look(self, row: Row) -> Finding:
        """The text without the lines that go, or what is wrong with it."""
        if not row.is_document:
            return PASS
        kinds = row.hints.kinds
        if kinds & FILLER:
            return Finding(Fate("c4", "filler text: lorem ipsum"))
        if self.settings.braces and kinds & BRACE:
            return Finding(Fate("c4", "a curly bracket"))
        whole = row.text
        found = judge()(whole, self.settings.line_words)
        text, sentences, gone, lines = whole, found.sentences, 0, len(found.stay)
        if self.settings.remove_lines:
            text, sentences, gone = self._without_lines(whole, found, unwanted=bool(kinds & UNWANTED_HINT))
            if kinds & BRACKET and (cited := CITATION.sub("", text)) != text:
                text, sentences = cited, judge()(cited, 0).sentences
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
        if not unwanted and all(found.stay):
            return whole, found.kept_sentences, 0
        lines = whole.split("\n")
        left = [line for line, stays in zip(lines, found.stay, strict=True) if stays]
        if unwanted:
            left = [line for line in left if not any(phrase in line.lower() for phrase in UNWANTED)]
        text = "\n".join(left)
        return text, judge()(text, 0).sentences if unwanted else found.kept_sentences, len(lines) - len(left)
