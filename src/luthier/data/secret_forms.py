"""The forms of keys and passwords: those that services give out, and values that look random beside a telling name."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from luthier.data.hints import ASSIGNED, NAME, Hints, hints
from luthier.data.personal import Found


class Form(NamedTuple):
    """A known form: letters that must be there at all, and the pattern. Kinds name the service."""

    kind: str
    needs: str
    pattern: re.Pattern[str]


def _form(kind: str, needs: str, pattern: str) -> Form:
    return Form(kind, needs, re.compile(rf"(?<![A-Za-z0-9_]){pattern}(?![A-Za-z0-9_])"))


FORMS = (
    Form(
        "private_key",
        "PRIVATE KEY",
        re.compile(
            r"-----BEGIN (?P<what>(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?)-----\s*[A-Za-z0-9+/=:,\s\\-]{40,}"
            r"(?:-----END (?P=what)-----)?"
        ),
    ),
    _form("aws_key", "AKIA", r"AKIA[A-Z2-7]{16}"),
    _form("aws_key", "ASIA", r"ASIA[A-Z2-7]{16}"),
    *(_form("github_token", f"gh{c}_", rf"gh{c}_[A-Za-z0-9]{{36,251}}") for c in "pousr"),
    _form("github_token", "github_pat_", r"github_pat_[A-Za-z0-9_]{40,251}"),
    _form("gitlab_token", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}"),
    _form("slack_token", "xox", r"xox[abeoprs]-(?=[A-Za-z-]*\d)[A-Za-z0-9-]{20,}"),
    _form(
        "slack_webhook", "hooks.slack.com", r"hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{20,}"
    ),
    _form("stripe_key", "k_live_", r"[rs]k_live_[A-Za-z0-9]{20,}"),
    _form("google_key", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    _form("google_oauth", "ya29.", r"ya29\.[A-Za-z0-9_-]{40,}"),
    _form("openai_key", "T3BlbkFJ", r"sk-[A-Za-z0-9_-]{16,}T3BlbkFJ[A-Za-z0-9_-]{16,}"),
    _form("anthropic_key", "sk-ant-", r"sk-ant-[a-z0-9]+-[A-Za-z0-9_-]{60,}"),
    _form("huggingface_token", "hf_", r"hf_(?=[A-Za-z]*\d|[a-z]*[A-Z])[A-Za-z0-9]{34}"),
    _form("npm_token", "npm_", r"npm_[A-Za-z0-9]{36}"),
    _form("pypi_token", "pypi-", r"pypi-AgE[A-Za-z0-9_-]{50,}"),
    _form("sendgrid_key", "SG.", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _form("digitalocean_token", "_v1_", r"do[opr]_v1_[a-f0-9]{64}"),
    _form("telegram_token", ":AA", r"\d{8,10}:AA[A-Za-z0-9_-]{33}"),
    _form("azure_key", "AccountKey=", r"AccountKey=[A-Za-z0-9+/]{86}=="),
    _form("jwt", "eyJ", r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
    Form(
        "address_with_password",
        "://",
        re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@'\"<>]{1,60}:(?P<secret>[^\s/:@'\"<>]{3,100})@[\w.-]+"),
    ),
)
STAND_IN = re.compile(
    r"example|sample|dummy|your|change.?me|redacted|placeholder|insert|xxx|\*\*\*|\.\.\.|<|>|\$\{|\{\{|%s"
    r"|^pass(?:word|wd)?\d{0,4}$|^secret$|^token$|abcdef|123456|(.)\1{5}",
    re.IGNORECASE,
)
"""What stands in for a secret in manuals."""
NAMED = re.compile(
    r"(?i:\b[\w.-]{0,30}(?:api[_-]?key|secret|token|passw(?:or)?d|passphrase|credential|auth[_-]?key|access[_-]?key|"
    r"private[_-]?key)[\w-]{0,20})[\"']?\s{0,3}(?::|=|=>|:=)\s{0,3}[\"'`]?(?P<value>[A-Za-z0-9+/_.~!@#$%^&-]{16,200}={0,2})"
)
BASE64_BITS, HEX_BITS = 3.7, 3.0
"""Least Shannon entropy of a random-looking value, in bits a letter. English words lie below 3.5."""


def known_secrets(text: str) -> list[Found]:
    """Secrets of a known form, from left to right, without overlaps."""
    taken: list[Found] = []
    for form in FORMS:
        if form.needs in text:
            for match in form.pattern.finditer(text):
                name = "secret" if "secret" in form.pattern.groupindex else 0
                start, end = match.span(name)
                free = all(end <= other.start or start >= other.end for other in taken)
                if free and (form.kind == "private_key" or not STAND_IN.search(match[name])):
                    taken.append(Found(start, end, form.kind, match[name]))
    return sorted(taken)


def entropy(text: str) -> float:
    """Shannon entropy of the letters, in bits a letter."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def random_looking(value: str) -> bool:
    """True for a value that nobody would write by hand: mixed, of high entropy, no name and no path."""
    if STAND_IN.search(value) or not (any(c.isdigit() for c in value) and any(c.isalpha() for c in value)):
        return False
    if re.fullmatch(r"[0-9a-fA-F-]+", value):
        return len(value) >= 24 and entropy(value) >= HEX_BITS
    words = re.findall(r"[A-Z]?[a-z]{3,}|[A-Z]{4,}", value)
    if sum(map(len, words)) > 0.6 * len(value):
        return False
    return entropy(value) >= BASE64_BITS


def may_be_guessed(hints: Hints) -> bool:
    """False for most texts: no telling name is in them, or nothing is assigned."""
    return bool(hints.kinds & NAME and hints.kinds & ASSIGNED)


def guessed_secrets(text: str) -> list[Found]:
    """Random-looking values behind a telling name."""
    return list(_guesses(text)) if may_be_guessed(hints(text)) else []


def _guesses(text: str) -> Iterator[Found]:
    for match in NAMED.finditer(text):
        if random_looking(match["value"]):
            yield Found(*match.span("value"), "named_value", match["value"])
