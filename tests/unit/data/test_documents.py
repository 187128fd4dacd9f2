"""Rules for documents: each has a text it refuses for its reason and one that just passes; conversations pass."""

from typing import Any

import pytest

from luthier.data.c4 import C4
from luthier.data.documents import REPETITION, FineWeb, Gopher, Repetition
from luthier.data.step import PASS, Row, RowStep, Surroundings
from luthier.recipe import curate
from luthier.types import Example, Message

PROSE = (
    "The keeper of the harbour light walked down to the water that morning and saw boats with torn sails. "
    "Nobody had slept, because the storm came over the hills long before midnight and tore at every roof. "
    "She counted eleven masts where there should have been twelve. A boy told her about the missing boat. "
    "They rowed out to search between grey rocks until the sun stood high. Nothing floated there but a basket."
)


def look(step: type[RowStep[Any]], text: str, **options: Any) -> Any:
    settings = getattr(curate, step.__name__)
    return step(settings(**options), Surroundings()).look(Row(Example("f", 1, text=text)))


BROKEN = [
    (Gopher, "Too short to be the text of a page.", "words: 9, at least 50 asked"),
    (Gopher, "a b c d e f g h i j " * 10, "letters a word: 1, at least 3 asked"),
    (Gopher, PROSE + " ###" * 4, "number signs a word: 0.154, at most 0.1 allowed"),
    (Gopher, PROSE.replace(" ", " ... ", 12), "ellipses a word: 0.14"),
    (Gopher, "\n".join(f"- {line}" for line in PROSE.split(". ")), "share of lines with a bullet: 1"),
    (Gopher, "\n".join(f"{line}..." for line in PROSE.split(". ")), "share of lines with an ellipsis: 1"),
    (Gopher, PROSE + " 12345" * 30, "share of words with a letter: 0.71"),
    (Gopher, "Wir sahen gestern einen alten Mann am Ufer stehen, " * 7, "stop words: 0, at least 2 asked"),
    (FineWeb, "no end\n" * 9 + "One end.", "share of lines with punctuation: 0.1,"),
    (FineWeb, "Short.\n" * 3 + "A line that is longer than thirty letters.", "share of short lines: 0.75"),
    (FineWeb, (PROSE + "\n") * 2, "share of letters in repeated lines: 0.5"),
    (
        FineWeb,
        "\n".join(["This line here is of some length so."] * 1 + [w * 31 + "." for w in "abcdefgh"]),
        "line ends",
    ),
    (C4, "One. Two three four. Five six seven.", "sentences: 3, at least 5 asked"),
    (C4, "int main() { return 0; }", "a curly bracket"),
    (C4, "Lorem ipsum dolor sit amet.", "filler text: lorem ipsum"),
]


@pytest.mark.parametrize(("step", "text", "reason"), BROKEN, ids=[f"{s.__name__}-{r[:18]}" for s, _, r in BROKEN])
def test_a_broken_rule_says_what_it_found_and_what_it_asks(step: type[RowStep[Any]], text: str, reason: str) -> None:
    fate = look(step, text).fate
    assert fate.name == step.name
    assert reason in fate.reason


@pytest.mark.parametrize("step", [Gopher, FineWeb, C4, Repetition])
def test_prose_passes(step: type[RowStep[Any]]) -> None:
    assert look(step, PROSE) is PASS


@pytest.mark.parametrize("step", [Gopher, FineWeb, C4])
def test_conversations_and_scripts_without_blanks_are_not_judged(step: type[RowStep[Any]]) -> None:
    settings = getattr(curate, step.__name__)()
    chat = Row(Example("f", 1, (Message("user", "{"), Message("assistant", "#### 4"))))
    assert step(settings, Surroundings()).look(chat) is PASS
    if step is not C4:
        assert look(step, "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002") is PASS


def test_a_setting_moves_a_bound() -> None:
    assert look(Gopher, "a short one of the kind", words=(3, 100)) is PASS
    assert look(FineWeb, (PROSE + "\n") * 2, duplicate_line_letters=0.5) is PASS


def test_c4_takes_lines_out_and_says_how_many() -> None:
    page = "Home | About\n" + PROSE + "\nWe use cookies on this site.\nread more"
    found = look(C4, page)
    assert found.changed.text == PROSE
    assert found.note == "3 of 4 lines taken out"
    assert look(C4, page, remove_lines=False) is PASS


def test_repetition_of_answers_is_looked_at_and_of_documents_dropped_if_asked() -> None:
    again = " ".join(["the same words in a row again"] * 20)
    answer = Row(Example("f", 1, (Message("user", "q"), Message("assistant", again))))
    found = Repetition(curate.Repetition(), Surroundings()).look(answer)
    assert found.fate is None
    assert found.risk > 0
    assert found.note == "top_2 is 39%, at most 20% allowed"
    dropped = look(Repetition, again, documents="drop")
    assert dropped.fate.name == "repetition"
    assert dropped.fate.score == 20 * 9 / (20 * 23)  # "same words", twenty times
    assert look(Repetition, "word " * 99) is PASS
    assert look(Repetition, again, limits=dict.fromkeys(REPETITION, 1.0)) is PASS
