"""Steps for what must not be learned: personal data and secrets. Found values are counted and replaced, never shown."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from luthier.data.hints import KEY
from luthier.data.personal import KINDS, Found, find, may_hold_any
from luthier.data.secret_forms import guessed_secrets, known_secrets, may_be_guessed
from luthier.data.step import PASS, Finding, Row, RowStep
from luthier.recipe.curate import PersonalKind
from luthier.recipe.curate import Pii as PiiSettings
from luthier.recipe.curate import Secrets as SecretsSettings
from luthier.types import Fate

Finder = Callable[[str], Sequence[Found]]
Policy = Literal["review", "replace", "drop"]


class Placeholders:
    """Names for values: the same value has the same one all through a row, numbered by kind from 1."""

    def __init__(self, text: str) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        for kind, number in re.findall(
            r"<([A-Z0-9_]+)_(\d{1,6})>", text
        ):  # what stands there already stays unlike ours
            self._last[kind] = max(self._last[kind], int(number))

    def of(self, kind: str, value: str) -> str:
        """The placeholder of a value, such as `<EMAIL_1>`."""
        label = kind.upper()
        if (kind, value) not in self._names:
            self._last[label] += 1
            self._names[kind, value] = f"<{label}_{self._last[label]}>"
        return self._names[kind, value]

    def put(self, text: str, finder: Finder) -> str:
        """The text with every value that is found replaced."""
        parts, end = [], 0
        for found in finder(text):
            parts += [text[end : found.start], self.of(found.kind, found.value)]
            end = found.end
        return "".join([*parts, text[end:]])


def _treat(row: Row, finder: Finder, policy: Policy, *, fate: str, risk: float) -> Finding:
    counts = Counter(found.kind for text in row.texts for found in finder(text))
    if not counts:
        return PASS
    said = ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))
    if policy == "drop":
        return Finding(Fate(fate, f"it holds {said}", score=float(counts.total())))
    if policy == "review":
        return Finding(risk=risk, note=said)
    placeholders = Placeholders("\n".join(row.texts))
    return Finding(changed=row.with_texts(lambda text: placeholders.put(text, finder)), note=f"replaced: {said}")


class Pii(RowStep[PiiSettings]):
    """Personal data that its form gives away."""

    name = "pii"

    def __init__(self, settings: PiiSettings, around: Any) -> None:
        super().__init__(settings, around)
        self.kinds: tuple[PersonalKind, ...] = tuple(KINDS if settings.kinds is None else settings.kinds)

    def look(self, row: Row) -> Finding:
        """Which kinds the row holds, or the row with placeholders in their place."""
        if not may_hold_any(row.hints):
            return PASS
        return _treat(row, lambda text: find(text, self.kinds), self.settings.action, fate="pii", risk=0.6)


class Secrets(RowStep[SecretsSettings]):
    """Keys and passwords, of known form or random-looking."""

    name = "secrets"

    def look(self, row: Row) -> Finding:
        """What the known forms say; where they say nothing, or have replaced what they found, the guess."""
        asked = self.settings
        known = PASS
        if row.hints.kinds & KEY:
            known = _treat(row, known_secrets, asked.known, fate="secret", risk=1.0)
        if known.fate or known.risk or asked.guessed == "off" or not may_be_guessed(row.hints):
            return known
        rest = Row(known.changed) if known.changed else row
        guess = _treat(rest, guessed_secrets, asked.guessed, fate="secret", risk=0.8)
        if known is PASS or guess is PASS:
            return known if guess is PASS else guess
        note = f"{known.note}; {guess.note}"
        return Finding(guess.fate, guess.changed or known.changed, guess.risk, note)
