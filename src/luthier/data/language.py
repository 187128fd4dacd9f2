"""Which language a text is in (py3langid: naive Bayes over byte n-grams, 97 languages, 4.6 MB, offline)."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.documents import verdict
from luthier.data.split import normalise
from luthier.data.step import PASS, Finding, Row, RowStep
from luthier.errors import Missing, RecipeError
from luthier.recipe.curate import Language as Settings

LEAST_LETTERS, MOST_LETTERS = 20, 200
NO_PROSE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`|https?://\S+|\S+@\S+", re.DOTALL)
"""Code blocks, code, addresses: written in no language, or in English everywhere."""
NO_LETTERS = bytes(c for c in range(128) if not chr(c).isalpha())


@cache
def identifier() -> Any:
    """The model, loaded once a process.

    Raises:
        Missing: py3langid is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise Missing("telling languages needs py3langid", fix='pip install "luthier[data]"') from error
    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.nb_ptc = found.nb_ptc.astype("float32")  # stored as float16, with which processors compute slowly
    return found


def _has_sign(text: str) -> bool:
    return "`" in text or "@" in text or "~~~" in text or "://" in text


def _prose(text: str) -> str:
    """The first 200 letters without code and addresses, white space as single blanks; nothing for less than twenty."""
    begin = text[: 2 * MOST_LETTERS]
    prose = "" if _has_sign(begin) else normalise(begin)
    if len(prose) < MOST_LETTERS:
        begin = text[: 8 * MOST_LETTERS]
        prose = normalise(NO_PROSE.sub(" ", begin) if _has_sign(begin) else begin)
    prose = prose[:MOST_LETTERS]
    if prose.isascii():
        return prose if len(prose.encode().translate(None, NO_LETTERS)) >= LEAST_LETTERS else ""
    return prose if sum(map(str.isalpha, prose)) >= LEAST_LETTERS else ""


Scores = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to the probabilities of all labels, `[texts, labels]`."""


@cache
def scorer() -> tuple[list[str], Scores]:
    """Labels, and what gives a probability to each: compiled where numba is installed, with the same results."""
    found = identifier()

    def plain(proses: Sequence[str]) -> NDArray[np.float32]:
        ranked = [dict(found.rank(prose)) for prose in proses]
        return np.array([[one[label] for label in found.labels] for one in ranked], np.float32)

    try:
        from luthier.data.compiled_language import Scorer

        compiled = Scorer(found)
    except (ImportError, AttributeError):  # no numba, or a py3langid that keeps its tables otherwise
        return found.labels, plain
    return compiled.labels, compiled.probabilities


def languages(text: str) -> dict[str, float]:
    """Languages (ISO 639-1) with their probabilities, the likeliest first; nothing for less than twenty letters.

    Code, addresses and all but the first 200 letters of prose are left out.
    """
    prose = _prose(text)
    labels, scores = scorer()
    if not prose:
        return {}
    return dict(sorted(zip(labels, scores([prose])[0].tolist(), strict=True), key=itemgetter(1), reverse=True))


class Language(RowStep[Settings]):
    """Rows in other languages than those asked for. A conversation is judged as a whole."""

    name = "language"

    def __init__(self, settings: Settings, around: Any) -> None:
        super().__init__(settings, around)
        if unknown := sorted(set(settings.keep) - set(identifier().labels)):
            fix = "give ISO 639-1 codes such as en, de or zh"
            raise RecipeError(f"unknown language {unknown[0]!r}", where="data.curate.language.keep", fix=fix)
        self.kept = [i for i, label in enumerate(scorer()[0]) if label in settings.keep]

    def look(self, row: Row) -> Finding:
        """A row goes when another language is likelier than every one asked for, by the margin."""
        return self.look_at([row])[0]

    def look_at(self, rows: Sequence[Row]) -> list[Finding]:
        """The same for many rows: texts are scored together."""
        proses = [_prose(row.text) for row in rows]
        findings = [PASS] * len(rows)
        told = [i for i, prose in enumerate(proses) if prose]
        if not told:
            return findings
        labels, score = scorer()
        scores = score([proses[i] for i in told])
        firsts = scores.argmax(axis=1)
        likely, best = scores.max(axis=1), scores[:, self.kept].max(axis=1)
        for k in np.flatnonzero(likely - best >= self.settings.margin).tolist():
            label, share = labels[int(firsts[k])], float(likely[k])
            if label not in self.settings.keep:
                reason = f"it is in '{label}' ({share:.2f})"
                findings[told[k]] = verdict(self.settings.action, "language", reason, share)
        return findings
