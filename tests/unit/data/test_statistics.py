"""Counts of documents: compiled equals plain, plain equals what one counts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.compiled_statistics import count
from luthier.data.statistics import clean, counter, plain, statistics, written_together

PIECES = [
    "the",
    "of",
    "and",
    "cat",
    "Cat",
    "dog",
    "- ",
    "\u2022 ",
    "...",
    "\u2026",
    "#",
    "42",
    "caf\u00e9",
    "\u65e5\u672c",
    "!",
    ".",
    "\u201d",
]
GAPS = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\n \n", "\u00a0", "\x1f", ""]
TEXTS = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(GAPS)), max_size=150).map(
    lambda parts: "".join(piece + gap for piece, gap in parts)
)


@given(TEXTS | st.text(st.characters(exclude_categories=("Cs",)), max_size=200), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_compiled_and_plain_agree(text: str, times: int) -> None:
    text = clean(text * times)
    for found in count([text, text])[:2]:
        assert found == pytest.approx(np.array(plain(text)), abs=1e-12)


def test_the_compiled_one_is_taken() -> None:
    assert counter() is count


def test_the_counts_are_those_of_a_person() -> None:
    found = statistics("- The cat and # 42 ...\n\nThe cat sat.\nThe cat sat.\n\nThe cat sat.\nThe cat sat.")
    assert (found.words, found.lines, found.paragraphs) == (19, 5, 3)
    assert (found.hashes, found.ellipses, found.words_with_letter, found.stop_words) == (1, 1, 15, 2)
    assert (found.bullet_lines, found.ellipsis_lines, found.ended_lines, found.short_lines) == (1, 1, 5, 5)
    assert (found.duplicate_lines, found.duplicate_paragraphs) == (3 / 5, 1 / 3)
    assert found.letters == 16 + 4 * 10
    assert found.duplicate_line_letters == 30 / 56
    assert found.duplicate_paragraph_letters == 20 / 56
    assert found.top_2 == 5 * 6 / 56  # "The cat", five times
    assert found.top_3 == 4 * 10 / 56
    assert found.duplicate_5 == 40 / 56  # all four lines: five words in a row come again
    assert found.duplicate_10 == 0


def test_nothing_is_counted_in_nothing() -> None:
    assert set(statistics(" \n\t")) == {0}


def test_scripts_without_blanks_are_told() -> None:
    assert written_together("\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002")
    assert not written_together("Sushi (\u5bff\u53f8) is Japanese.")
