"""Phrases that give away where a text came from: other assistants, refusals, templates that were never filled in."""

import re

from luthier.data.documents import verdict
from luthier.data.hints import BRACES
from luthier.data.hints import PHRASE as PHRASES_HINT
from luthier.data.hints import PLACEHOLDER as PLACEHOLDERS_HINT
from luthier.data.step import PASS, Finding, Row, RowStep
from luthier.recipe.curate import Boilerplate as Settings

PHRASES = (
    (
        ("language model", " intelligence", " ai "),
        r"as an? (?:\w+ )?(?:ai|artificial intelligence)(?: language)? (?:model|assistant)",
    ),
    (("language model",), r"as a (?:large )?language model"),
    (
        ("language model", " intelligence", " ai"),
        r"i(?: a|')m (?:just |only )?an? (?:ai|artificial intelligence|large language model|language model)\b",
    ),
    (
        ("by openai", "by anthropic", "by google deepmind", "by mistral ai"),
        r"(?:trained|developed|created|made) by (?:openai|anthropic|google deepmind|mistral ai)",
    ),
    (("my knowledge cut", "my training data"), r"my (?:knowledge cut-?off|training data)"),
    (("as of my l",), r"as of my (?:last|latest) (?:knowledge )?update"),
    (("regenerate response",), r"regenerate response"),
    (("copy code\n",), r"\bcopy code\n"),
    (("is there anything else",), r"is there anything else (?:i can|you(?:'d| would) like)"),
    (("finds you well",), r"i hope this (?:email|message) finds you well"),
)
"""What assistants say of themselves, and what is copied along with their answers: letters of which some must be there,
and the pattern, both in lower case."""
REFUSALS = (
    r"i(?:'m| am) (?:really |very |so |truly )?(?:sorry|afraid),? (?:but )?(?:i |that )",
    r"(?:i(?:'m| am) )?sorry,? (?:but )?(?:i |that )",
    r"i (?:apologi[sz]e|regret),? (?:but )?",
    r"i (?:can(?:'|no)t|can not|am unable to|am not able to|will not|won't|must decline|decline|refuse)\b",
    r"i(?:'m| am) (?:not able|unable|not comfortable|not allowed|not permitted|programmed)\b",
    r"unfortunately,? i (?:can(?:'|no)t|am unable|am not able)",
    r"(?:no|it (?:is|would be)) (?:illegal|unethical|inappropriate|not appropriate|not ethical|against)\b",
    r"as an? (?:\w+ )?(?:ai|artificial intelligence)(?: language)? (?:model|assistant),? i (?:can(?:'|no)t|cannot|am)",
)
"""How refusals open."""
LATER = (
    r"i (?:can(?:'|no)t|cannot|can not|am unable to|am not able to|won't|will not) "
    r"(?:assist|help|provide|fulfil|fulfill|comply|support|engage|participate|condone|create|generate|offer|give|encourage|"
    r"recommend|advise|discuss|answer|do that)",
    r"(?:is|are) (?:illegal|unethical|immoral)(?: and|,| or)",
    r"it is (?:not (?:appropriate|ethical|acceptable|legal)|illegal|unethical|never (?:okay|ok|acceptable))",
    r"i (?:strongly )?(?:advise|urge|encourage) (?:you )?(?:against|not to)",
)
"""What refusals say soon after."""
EARLY = 400
PLACEHOLDERS = (
    r"\[(?:insert|your|company|recipient|customer|client|add|enter)[ _][^\]\n]{1,40}\]",
    r"<(?:insert|your|enter)[ _][^>\n]{1,40}>",
    r"\{\{ ?[a-z_.]{1,40} ?\}\}",
    r"lorem ipsum",
    r"\b(?:todo|tbd|fixme): ",
)
"""What somebody was to fill in."""


def _one_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


LATE, PLACEHOLDER = _one_of(LATER), _one_of(PLACEHOLDERS)
PHRASE = tuple((needs, re.compile(pattern)) for needs, pattern in PHRASES)
OPENING = re.compile(rf"[\s\"'*]*(?:{'|'.join(REFUSALS)})", re.IGNORECASE)
CURLY = str.maketrans({"\u2019": "'", "\u2018": "'"})


def refusal(answer: str) -> bool:
    """True when an answer refuses, by how it opens or by what its first 400 letters say."""
    early = answer[:EARLY].translate(CURLY)
    return bool(OPENING.match(early) or LATE.search(early))


class Boilerplate(RowStep[Settings]):
    """Looks at answers, and for what was never filled in at plain texts too."""

    name = "boilerplate"

    def __init__(self, settings: Settings, around: object) -> None:
        super().__init__(settings, around)  # type: ignore[arg-type]
        self.further = tuple(phrase.lower() for phrase in settings.further)

    def look(self, row: Row) -> Finding:
        """The first phrase that is found; what drops a row is looked for first."""
        found = list(self._found(row))
        return max(found, key=lambda one: (one.fate is not None, one.risk), default=PASS)

    def _found(self, row: Row) -> list[Finding]:
        s, found = self.settings, []
        kinds = row.hints.kinds
        phrases, placeholders = kinds & PHRASES_HINT or self.further, kinds & (PLACEHOLDERS_HINT | BRACES)
        if row.is_document and not (phrases or placeholders):
            return []
        for text in [row.text] if row.is_document else row.answers:
            plain = text if text.isascii() else text.translate(CURLY)
            if phrases and (phrase := self._phrase(plain.lower())):
                found.append(verdict(s.phrases, "boilerplate", f"it says {_quote(phrase)}"))
            if placeholders and (hit := PLACEHOLDER.search(plain)):
                found.append(verdict(s.placeholders, "placeholder", f"never filled in: {_quote(hit[0])}"))
            if not row.is_document and refusal(text):
                found.append(verdict(s.refusals, "refusal", f"the answer refuses: {_quote(text[:60])}", risk=0.3))
        return found

    def _phrase(self, lowered: str) -> str | None:
        for needs, pattern in PHRASE:
            if any(part in lowered for part in needs) and (hit := pattern.search(lowered)):
                return hit[0]
        return next((phrase for phrase in self.further if phrase in lowered), None)


def _quote(text: str) -> str:
    return repr(" ".join(text.split()))
