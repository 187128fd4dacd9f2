"""Checkers of instructions say what lm-evaluation-harness's say, on random texts made of what they look for."""

import random
import sys
import types
from typing import Any

import pytest

from luthier.evaluate.instructions import CHECKERS

PIECES = [
    *(
        "hello",
        "World",
        "ADA",
        "P.S. more",
        "P.P.S yes",
        "p. s. so",
        "* item",
        "- point",
        "** bold **",
        "*hi*",
        "[x y]",
    ),
    *("<<Title>>", "<<>>", "***", "******", "\n", "\n\n", "\n\n", "My answer is yes.", "Section 1", "SECTION 3", ","),
    *("!", '"', "green", "greenish", '```json\n{"a": 1}\n```', '{"a": 1}', "That is all.", "\n* a", "\n- b", "\n*** "),
]
WANTED: dict[str, list[dict[str, Any]]] = {
    "keywords:existence": [{"keywords": ["green"]}, {"keywords": ["hello", "ada"]}],
    "keywords:frequency": [{"keyword": "green", "frequency": n, "relation": r} for n in (1, 3) for r in ("less than",)],
    "keywords:forbidden_words": [{"forbidden_words": ["green", "item"]}],
    "keywords:letter_frequency": [{"letter": "e", "let_frequency": 4, "let_relation": "at least"}],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3)],
    "length_constraints:number_words": [{"num_words": 9, "relation": r} for r in ("at least", "less than")],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": n, "nth_paragraph": at, "first_word": "hello"} for n, at in ((1, 1), (2, 1), (2, 2))
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": 2}],
    "detectable_content:postscript": [{"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 3)],
    "detectable_format:multiple_sections": [{"section_spliter": "Section", "num_sections": 1}],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "hello"}],
    "startend:end_checker": [{"end_phrase": "That is all."}],
    "startend:quotation": [{}],
    "punctuation:no_comma": [{}],
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The harness's registry; what it needs only for languages and sentences may be missing."""
    kept = {name: sys.modules.get(name) for name in ("langdetect", "immutabledict", "nltk")}
    pytest.importorskip("lm_eval")
    patch = pytest.MonkeyPatch()
    for name in kept:
        try:
            __import__(name)
        except ImportError:
            patch.setitem(sys.modules, name, types.ModuleType(name))
    words = types.SimpleNamespace(RegexpTokenizer=lambda pattern: types.SimpleNamespace(tokenize=_splitter(pattern)))
    if not hasattr(sys.modules["nltk"], "tokenize"):
        patch.setattr(sys.modules["nltk"], "tokenize", words, raising=False)
        patch.setattr(sys.modules["nltk"], "data", types.SimpleNamespace(find=lambda *_: 1), raising=False)
    patch.setattr(sys.modules["nltk"], "download", lambda *_, **__: None, raising=False)
    if not hasattr(sys.modules["immutabledict"], "immutabledict"):
        patch.setattr(sys.modules["immutabledict"], "immutabledict", dict, raising=False)
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    yield INSTRUCTION_DICT
    patch.undo()


def _splitter(pattern: str) -> Any:
    import re

    return lambda text: re.findall(pattern, text)


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    found = []
    while len(found) < count:
        text = "".join(draw.choice(PIECES) + draw.choice(" \n") for _ in range(draw.choice([1, 2, 5, 12])))
        text = draw.choice(["", "", "hello"]) + text + draw.choice(["", "", "That is all."])
        text = f'"{text.strip()}"' if draw.random() < 0.2 else text
        found += [text] if text.strip() else []
    return found


@pytest.mark.parametrize("kind", WANTED)
def test_a_checker_says_what_the_reference_says(kind: str, theirs: Any) -> None:
    said = set()
    for wanted in WANTED[kind]:
        instruction = theirs[kind](kind)
        instruction.build_description(**wanted)
        for text in texts(300):
            expected = bool(instruction.check_following(text))
            said.add(expected)
            assert CHECKERS[kind](text, wanted) == expected, (text, wanted)
    assert said == {True, False}, "the texts try both"
