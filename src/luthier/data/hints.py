"""One look over a text that says which costly patterns are worth trying: most texts hold nothing that any would find.

A hint may be wrong in one direction only: it can be there without a reason, but it is never missing where a pattern
that asks for it would match. This is the plain form; `compiled_hints.py` does the same in one pass over the bytes, and
a test holds them equal.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

KEY, NAME, PHRASE, PLACEHOLDER, FILLER, UNWANTED = (1 << i for i in range(6))
"""Letters of a kind are there: a known key; a name that secrets are given to; what assistants say of themselves; what
was to be filled in; filler text; what web pages say of themselves."""
AT, BRACE, BRACES, BRACKET, COLONS, MAC, IPV4, NINO, ASSIGNED = (1 << i for i in range(6, 15))
"""Signs, and how numbers and values stand."""

LITERALS: dict[int, tuple[str, ...]] = {
    KEY: (
        *("PRIVATE KEY", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-"),
        *(f"xox{letter}-" for letter in "abeoprs"),
        *("hooks.slack.com", "k_live_", "AIza", "ya29.", "T3BlbkFJ", "sk-ant-", "hf_", "npm_", "pypi-", "SG."),
        *("_v1_", ":AA", "AccountKey=", "eyJ", "://"),
    ),
    NAME: (
        *("secret", "token", "passw", "passphrase", "credential"),
        *("_key", "-key", "apikey", "authkey", "accesskey", "privatekey"),
    ),
    PHRASE: (
        *(
            "language model",
            " intelligence",
            "an ai",
            "a ai",
            " ai model",
            " ai assistant",
            "by openai",
            "by anthropic",
            "by google deepmind",
            "by mistral ai",
        ),
        *("my knowledge cut", "my training data", "as of my l", "regenerate response", "copy code\n"),
        *("is there anything else", "finds you well"),
    ),
    PLACEHOLDER: (
        *(f"[{word}" for word in ("insert", "your", "company", "recipient", "customer", "client", "add", "enter")),
        *("<insert", "<your", "<enter", "lorem ipsum", "todo: ", "tbd: ", "fixme: "),
    ),
    FILLER: ("lorem ipsum",),
    UNWANTED: (
        *("javascript", "terms of use", "terms & conditions", "privacy policy", "cookie policy"),
        *("uses cookies", "use of cookies", "use cookies"),
    ),
}
"""At least three letters each. Those of the kinds `CASED` stand in a text just so; the others are in lower case here,
and the case of ASCII letters in a text does not matter."""
CASED = KEY

SHAPES: dict[int, re.Pattern[bytes]] = {
    AT: re.compile(rb"@"),
    BRACE: re.compile(rb"\{"),
    BRACES: re.compile(rb"\{\{"),
    BRACKET: re.compile(rb"\["),
    COLONS: re.compile(rb"::|(?::[^:]*){7}"),
    MAC: re.compile(rb"([:-])..\1..\1..\1..\1", re.DOTALL),
    IPV4: re.compile(rb"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"),
    NINO: re.compile(rb"[A-Z]{2} ?[0-9]{2}"),
    ASSIGNED: re.compile(rb"[:=>][ \t-\r]{0,3}[\"'`]?[A-Za-z0-9+/_.~!@#$%^&-]{16}"),
}
LEADS = (0xD9, 0xDB, 0xDF, 0xE0, 0xE1, 0xEA, 0xEF, 0xF0)
"""First bytes in UTF-8 of all digits that are not ASCII. Other signs have them too, so these count as digits."""
_LEADS = re.escape(bytes(LEADS))
_DIGIT = rb"(?:[0-9]|[" + _LEADS + rb"][\x80-\xbf]*)"
_BETWEEN = rb"(?:[^0-9A-Za-z_\n\x80-\xff]|(?![" + _LEADS + rb"])[\xc0-\xff][\x80-\xbf]*)"
_RUN, _ONE = re.compile(_DIGIT + rb"(?:" + _BETWEEN + rb"{0,2}" + _DIGIT + rb")*"), re.compile(_DIGIT)
MOST_DIGITS = 255


class Hints(NamedTuple):
    """What a text may hold: the kinds of letters and signs, and the most digits in a row.

    Digits are in a row with at most two signs, which are no letters and no line ends, between neighbours.
    """

    kinds: int
    digits: int


def plain(data: bytes) -> Hints:
    """The hints of a text in UTF-8."""
    lowered = data.lower()
    kinds = 0
    for kind, literals in LITERALS.items():
        where = data if kind & CASED else lowered
        kinds |= kind * any(literal.encode() in where for literal in literals)
    kinds |= sum(kind for kind, shape in SHAPES.items() if shape.search(data))
    runs = (len(_ONE.findall(run)) for run in _RUN.findall(data))
    return Hints(kinds, min(max(runs, default=0), MOST_DIGITS))


def _plain(texts: Sequence[str]) -> list[Hints]:
    return [plain(text.encode("utf-8", "replace")) for text in texts]


@cache
def looker() -> Callable[[Sequence[str]], list[Hints]]:
    """What looks over texts: compiled where numba is installed, plain elsewhere, with the same results."""
    try:
        from luthier.data.compiled_hints import look
    except ImportError:
        return _plain
    return look


def hints(text: str) -> Hints:
    """The hints of a text."""
    return looker()([text])[0]
