"""The answers shown in the report: which of them, and where they differ from what was expected."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from markupsafe import Markup, escape

from luthier.pipeline.story import Asked

SHOWN = {"mended": 4, "broken": 4, "wrong both times": 4}
LONGEST = 800  # characters of one text on the page; the whole is in answers.jsonl
ALIKE = 0.5  # below it two texts share little but blanks and commas, and marking word by word shows nothing
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


def sample(asked: Sequence[Asked], wanted: int = 12) -> list[Asked]:
    """Up to `wanted` items: mended, broken and wrong both times in equal parts, what is left from where there is more.

    Items are taken at even distances, so that nobody has picked the nice ones.
    """
    kinds = {name: [a for a in asked if a.change == name] for name in (*SHOWN, "right both times")}
    quota = {name: min(len(kinds[name]), SHOWN.get(name, 0)) for name in kinds}
    for name in kinds:
        quota[name] += min(len(kinds[name]) - quota[name], wanted - sum(quota.values()))
    return [asked for name, group in kinds.items() for asked in _evenly(group, quota[name])]


def _evenly(items: Sequence[Asked], n: int) -> list[Asked]:
    return [items[i * len(items) // n] for i in range(n)]


def shorten(text: str, longest: int = LONGEST) -> tuple[str, int]:
    """The beginning of a text and how many characters were left out."""
    return (text, 0) if len(text) <= longest else (text[:longest], len(text) - longest)


def marked(answer: str, expected: str) -> Markup:
    """The answer with what is not expected in `<mark>`, and an empty `<i class="gap">` where something is missing."""
    left, right = _WORD.findall(shorten(expected)[0]), _WORD.findall(shorten(answer)[0])
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    if matcher.ratio() < ALIKE:
        return _mark("".join(right))
    parts: list[Markup] = []
    for kind, i, j, a, b in matcher.get_opcodes():
        text = "".join(right[a:b])
        if kind == "equal":
            parts.append(escape(text))
        elif a < b:
            parts.append(_mark(text))
        elif "".join(left[i:j]).strip():
            parts.append(Markup('<i class="gap" title="missing here"></i>'))
    return Markup("").join(parts)


def _mark(text: str) -> Markup:
    return Markup("<mark>{}</mark>").format(text)
