"""One look over a text: compiled equals plain, and it never lacks what a pattern would find."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import hints
from luthier.data.c4 import judge, plain
from luthier.data.compiled_c4 import lines
from luthier.data.compiled_hints import look
from luthier.data.hints import LITERALS
from luthier.data.language import identifier, scorer

LETTERS = [literal for group in LITERALS.values() for literal in group]
SIGNS = ["@", "{", "[", ":", "::", "-", ".", "=", " ", "\n", "\t", "'", "12", "1.2.3.4", "AB 12", "\u0663", "\u00e9"]
LONGER = ["abcdefghijklmnop", "00:11:22:33:44:55", "1 2 3 4 5", "\u65e5", "\U0001d7ce", "\u201c", "Word"]
TEXTS = st.lists(st.sampled_from(LETTERS + SIGNS * 3 + LONGER * 2), max_size=14).map("".join)


@given(TEXTS | st.text(st.characters(exclude_categories=("Cs",)), max_size=60), st.booleans())
@settings(max_examples=500, deadline=None)
def test_compiled_and_plain_agree(text: str, upper: bool) -> None:
    text = text.upper() if upper else text
    assert look([text, "", text]) == [hints.plain(one.encode()) for one in (text, "", text)]


def test_digits_are_counted_through_few_signs_and_in_every_script() -> None:
    assert hints.hints("call 01-23 (45) 67").digits == 8
    assert hints.hints("12 and 34").digits == 2
    assert hints.hints("\u0660\u0661\u0662").digits == 3
    assert hints.hints("1\n2").digits == 1


ENDS = ["word ", "word", ". ", "...", "?", '."', ".\u201d)", "\n", "\u00a0", "\u3000", "\t", "x" * 1001, "\u00e9 ", "a"]


@given(st.lists(st.sampled_from(ENDS), max_size=20).map("".join), st.integers(0, 3))
@settings(max_examples=400, deadline=None)
def test_lines_are_judged_alike(text: str, least: int) -> None:
    for (stay, *found), expected in zip(lines([text, text], least), [plain(text, least)] * 2, strict=True):
        assert (list(stay), *found) == expected
    assert judge() is lines


TOGETHER = "What is scored beside it, and longer than some of what is: the keeper walked down to the water."


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=200))
@settings(max_examples=100, deadline=None)
def test_languages_score_as_the_library_scores_them(text: str) -> None:
    labels, scores = scorer()
    known, found = dict(identifier().rank(text)), scores([TOGETHER, text, "", text, *[TOGETHER] * 20])
    assert found.shape == (24, len(labels))
    assert len(labels) == len(known)
    assert np.array_equal(found[1], found[3])
    assert np.array_equal(found[0], found[23])
    for one in (found[1], found[3]):
        assert max(abs(known[label] - p) for label, p in zip(labels, one.tolist(), strict=True)) < 1e-4
