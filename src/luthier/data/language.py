"""Which language a text is in (py3langid: naive Bayes over byte n-grams, 97 languages, 4.6 MB, offline)."""

import re
from functools import cache
from typing import Any

from luthier.data.documents import verdict
from luthier.data.step import PASS, Finding, Row, RowStep
from luthier.errors import Missing, RecipeError
from luthier.recipe.curate import Language as Settings

LEAST_LETTERS, MOST_LETTERS = 20, 200
NO_PROSE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`|https?://\S+|\S+@\S+", re.DOTALL)
"""Code blocks, code, addresses: written in no language, or in English everywhere."""
SIGNS = ("`", "~~~", "://", "@")


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


def languages(text: str) -> dict[str, float]:
    """Languages (ISO 639-1) with their probabilities, the likeliest first; nothing for less than twenty letters.

    Code, addresses and all but the first 200 letters of prose are left out.
    """
    begin = text[: 8 * MOST_LETTERS]
    if any(sign in begin for sign in SIGNS):
        begin = NO_PROSE.sub(" ", begin)
    prose = " ".join(begin.split())[:MOST_LETTERS]
    if sum(map(str.isalpha, prose)) < LEAST_LETTERS:
        return {}
    return dict(identifier().rank(prose))


class Language(RowStep[Settings]):
    """Rows in other languages than those asked for. A conversation is judged as a whole."""

    name = "language"

    def __init__(self, settings: Settings, around: Any) -> None:
        super().__init__(settings, around)
        if unknown := sorted(set(settings.keep) - set(identifier().labels)):
            fix = "give ISO 639-1 codes such as en, de or zh"
            raise RecipeError(f"unknown language {unknown[0]!r}", where="data.curate.language.keep", fix=fix)

    def look(self, row: Row) -> Finding:
        """A row goes when another language is likelier than every one asked for, by the margin."""
        found = languages(row.text)
        if not found:
            return PASS
        first, likely = next(iter(found.items()))
        best = max(found.get(code, 0.0) for code in self.settings.keep)
        if first in self.settings.keep or likely - best < self.settings.margin:
            return PASS
        return verdict(self.settings.action, "language", f"it is in '{first}' ({likely:.2f})", likely)
