"""Languages: told from prose, not from code or a few words; unclear ones pass."""

from typing import Any

import pytest

from luthier.data.language import Language, languages
from luthier.data.step import PASS, Row, Surroundings
from luthier.errors import RecipeError
from luthier.recipe import curate
from luthier.types import Example, Message

TEXTS = {
    "en": "The keeper of the light walked down to the water that morning and saw boats with torn sails.",
    "de": "Der W\u00e4rter ging an jenem Morgen hinunter zum Wasser und sah Boote mit zerrissenen Segeln.",
    "fr": "Ce matin-l\u00e0, le gardien du phare descendit vers la mer et vit des bateaux aux voiles rouges.",
    "es": "Aquella ma\u00f1ana el guardi\u00e1n del faro baj\u00f3 hasta el agua y vio barcos con las velas rotas.",
}


def look(text: str, **options: Any) -> Any:
    settings = curate.Language(**({"keep": ["en"]} | options))
    row = Row(Example("f", 1, (Message("user", text), Message("assistant", "42"))))
    return Language(settings, Surroundings()).look(row)


@pytest.mark.parametrize("code", TEXTS)
def test_the_language_of_a_sentence_is_told(code: str) -> None:
    found = languages(TEXTS[code])
    assert next(iter(found)) == code
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)
    assert (look(TEXTS[code]) is PASS) == (code == "en")
    assert look(TEXTS[code], keep=["en", code]) is PASS


def test_a_reason_names_the_language() -> None:
    fate = look(TEXTS["de"]).fate
    assert fate.name == "language"
    assert fate.reason.startswith("it is in 'de' (")
    assert look(TEXTS["de"], action="review").note.startswith("it is in 'de'")


def test_code_addresses_and_a_few_words_are_in_no_language() -> None:
    assert not languages("Guten Tag")
    assert not languages("```python\nfor zahl in range(10): drucke(zahl)\n```\nhttps://beispiel.de/ein/langer/weg")
    assert look("Wie geht es?") is PASS
    assert (
        languages(f"{TEXTS['fr']}\n```\nfor x in the_list: print(the_item)\n```").keys()
        == languages(TEXTS["fr"]).keys()
    )


def test_an_unclear_text_passes_and_an_unknown_code_is_named() -> None:
    assert look(TEXTS["de"], margin=1.0) is PASS
    with pytest.raises(RecipeError, match="unknown language 'english'"):
        look("x", keep=["english"])
