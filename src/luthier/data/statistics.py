"""What the rules for documents count: words, lines, paragraphs, repeated n-grams.

This is the plain form. `compiled_statistics.py` has the same in machine code, and a test holds them equal.

Words are what stands between white space, lines and paragraphs (between empty lines) are taken without the white space
around them, and empty ones do not count. Shares of letters are shares of the letters in words.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from luthier.data.shingles import WRITTEN_TOGETHER

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
BULLETS = "-*\u2022\u2023\u2043\u25aa\u25b6\u25cf\u25cb\u25e6\u2013"
ENDINGS = ".!?\"':;)\u2026\u201d\u3002\uff01\uff1f"
"""What a line may end with to be a line of prose, beside letters it must not."""
SHORT_LINE = 30
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

_SPACE = re.compile(r"[^\S\n]+")
_TOGETHER = re.compile(f"[{WRITTEN_TOGETHER}]")


Table = NDArray[np.float64]


class Statistics(NamedTuple):
    """Counts and shares of one text. Shares lie between 0 and 1 and are 0 for a text without words."""

    words: int
    letters: int
    """Letters in words: the text without its white space."""
    hashes: int
    ellipses: int
    """Signs `...` and the one-letter form."""
    words_with_letter: int
    stop_words: int
    """How many of the words that English cannot do without are there."""
    lines: int
    bullet_lines: int
    ellipsis_lines: int
    ended_lines: int
    """Lines that end with a sign of punctuation."""
    short_lines: int
    """Lines of at most thirty letters."""
    paragraphs: int
    duplicate_lines: float
    """Share of the lines that stood before."""
    duplicate_line_letters: float
    duplicate_paragraphs: float
    duplicate_paragraph_letters: float
    top_2: float
    """Share of the letters that lies in the most frequent two words in a row; of equal ones the longest."""
    top_3: float
    top_4: float
    duplicate_5: float
    """Share of the letters in five words in a row that stand there more than once, overlaps counted once."""
    duplicate_6: float
    duplicate_7: float
    duplicate_8: float
    duplicate_9: float
    duplicate_10: float


def clean(text: str) -> str:
    """The text with every white space but line ends as a blank, so that bytes are enough to find words."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else _SPACE.sub(" ", text)


def written_together(text: str) -> bool:
    """True for a text mostly in scripts without blanks between words, for which these numbers mean nothing."""
    return not text.isascii() and 2 * len(_TOGETHER.findall(text)) > len(text)


def has_letter(word: str) -> bool:
    """True when a word is more than digits and signs. Outside of ASCII only punctuation and symbols are none."""
    return any(c.isalpha() if c < "\x80" else not "\u2000" <= c < "\u2c00" for c in word)


def _repeats(parts: Sequence[str]) -> tuple[float, int]:
    """Share of the parts that stood before, and their letters without white space."""
    seen: set[str] = set()
    again = letters = 0
    for part in parts:
        if part in seen:
            again += 1
            letters += sum(map(len, part.split()))
        seen.add(part)
    return again / max(len(parts), 1), letters


def _top(words: Sequence[str], n: int) -> int:
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    most = max(grams.values(), default=0)
    if most < 2:
        return 0
    return most * max(sum(map(len, gram)) for gram, count in grams.items() if count == most)


def _duplicate(words: Sequence[str], n: int) -> int:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(grams)
    covered = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
    return sum(len(words[i]) for i in covered)


def plain(text: str) -> Statistics:
    """The statistics of a cleaned text."""
    words = [word for word in re.split(r"[ \t\n\v\f\r\x1c-\x1f]+", text) if word]
    lines = [line for part in text.split("\n") if (line := part.strip())]
    paragraphs = [
        "\n".join(run).strip() for empty, run in groupby(text.split("\n"), lambda x: not x.strip()) if not empty
    ]
    letters = sum(map(len, words))
    whole = max(letters, 1)
    (line_share, line_letters), (paragraph_share, paragraph_letters) = _repeats(lines), _repeats(paragraphs)
    folded = {word.lower() for word in words}
    return Statistics(
        words=len(words),
        letters=letters,
        hashes=text.count("#"),
        ellipses=text.count("...") + text.count("\u2026"),
        words_with_letter=sum(map(has_letter, words)),
        stop_words=sum(word in folded for word in STOP_WORDS),
        lines=len(lines),
        bullet_lines=sum(line.startswith(tuple(BULLETS)) for line in lines),
        ellipsis_lines=sum(line.endswith(("...", "\u2026")) for line in lines),
        ended_lines=sum(line.endswith(tuple(ENDINGS)) for line in lines),
        short_lines=sum(len(line) <= SHORT_LINE for line in lines),
        paragraphs=len(paragraphs),
        duplicate_lines=line_share,
        duplicate_line_letters=line_letters / whole,
        duplicate_paragraphs=paragraph_share,
        duplicate_paragraph_letters=paragraph_letters / whole,
        **cast("dict[str, Any]", {f"top_{n}": _top(words, n) / whole for n in TOP}),
        **cast("dict[str, Any]", {f"duplicate_{n}": _duplicate(words, n) / whole for n in DUPLICATE}),
    )


def _plain(texts: Sequence[str]) -> Table:
    return np.array([plain(text) for text in texts], np.float64).reshape(len(texts), len(Statistics._fields))


@cache
def counter() -> Callable[[Sequence[str]], Table]:
    """What counts in cleaned texts: compiled where numba is installed, plain elsewhere, with the same results."""
    try:
        from luthier.data.compiled_statistics import count
    except ImportError:
        return _plain
    return count


def tabulate(texts: Sequence[str]) -> Table:
    """The statistics of texts, `[n, 25]`: a column for each field of `Statistics`."""
    return counter()([clean(text) for text in texts])


def statistics(text: str) -> Statistics:
    """The statistics of a text."""
    return Statistics(*tabulate([text])[0].tolist())
