"""The profanity classifier: compiled equals plain, long texts are scored in windows, its card keeps its promise."""

import codecs
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_classifier

from luthier.data import profanity
from luthier.data.profanity import Classifier, Profanity, classifier, features, weights_file
from luthier.data.step import PASS, Row, Surroundings
from luthier.errors import RecipeError
from luthier.recipe import curate
from luthier.types import Example

SWEARING = codecs.decode("lbh fghcvq ovgpu, shpx bss", "rot13")
CALM = "The parcel arrived on Tuesday, and everybody in the office was pleased with it."


def look(text: str, home: Path = Path(), **options: Any) -> Any:
    return Profanity(curate.Profanity(**options), Surroundings(home)).look(Row(Example("f", 1, text=text)))


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(["a", "word", "\u00e9t\u00e9", "@me", "&amp;", "RT"])).map(" ".join)
)
@settings(max_examples=100, deadline=None)
def test_compiled_and_plain_agree(text: str) -> None:
    weights = np.random.default_rng(0).integers(-127, 128, 1 << profanity.BUCKETS_BITS).astype(np.int8)
    fast = Classifier(weights, 0.02, -0.5)
    assert fast.compiled is not None
    plain = Classifier(weights, 0.02, -0.5)
    plain.compiled = None
    assert np.array_equal(fast.probabilities([text, CALM, text]), plain.probabilities([text, CALM, text]))


def test_features_are_the_word_its_pair_and_its_letters() -> None:
    (first, second) = features("Cat @you https://x.org/y dog")
    assert len(first) == len(second) == 2 + 3 + 2 + 1  # word, pair, and 3, 4 and 5 of the letters of " cat "
    assert np.array_equal(features("cat")[0], first)
    assert len(np.intersect1d(features("dog")[0], second)) >= 7  # but for the pair
    assert not features("?!")


def test_swearing_is_found_and_calm_words_are_not() -> None:
    assert look(CALM) is PASS
    found = look(SWEARING)
    assert found.fate is None
    assert found.risk > 0.9
    assert found.note == f"probability {found.risk:.2f}"
    assert look(SWEARING, action="drop").fate.name == "profanity"
    assert look("") is PASS


def test_one_line_is_not_lost_in_a_long_text() -> None:
    assert look(f"{CALM} " * 50) is PASS
    assert look(f"{CALM} " * 50 + f"{SWEARING} " * 4 + f"{CALM} " * 50).risk > 0.9


def test_the_weights_are_small_and_the_card_says_what_they_are_not() -> None:
    assert weights_file().stat().st_size < 1_000_000
    card = weights_file().with_suffix(".md").read_text(encoding="utf-8")
    area = re.search(r"area under the ROC curve \| ([\d.]+)", card)
    assert area is not None
    assert float(area[1]) >= 0.95
    assert "no verdict on safety" in card
    assert classifier().weights.shape == (1 << profanity.BUCKETS_BITS,)


def test_another_classifier_can_be_asked(tmp_path: Path) -> None:
    save_classifier(tmp_path / "other", ["fine", "rude"])
    name = {"classifier": "other", "threshold": 0.01}
    found = look("one", tmp_path, **name)
    calm = look("one", tmp_path, **name, labels=["fine"])
    assert found.risk + calm.risk == pytest.approx(1, abs=1e-5)
    step = Profanity(curate.Profanity(classifier="other"), Surroundings(tmp_path))
    assert step.fingerprint() != Profanity(curate.Profanity(), Surroundings()).fingerprint()
    with pytest.raises(RecipeError, match="no label 'loud'"):
        look(CALM, tmp_path, **name, labels=["loud"])
