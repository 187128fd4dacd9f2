"""The table of steps, what a row offers them, and the first of them: exact duplicates."""

import pytest

from luthier.data.duplicates import Duplicates
from luthier.data.step import Held, Row, Surroundings
from luthier.data.steps import STEPS, row_steps, set_steps
from luthier.recipe import Curate
from luthier.recipe.curate import Duplicates as Settings
from luthier.types import Example, Message, Pair

CALL = {"type": "function", "id": "c1", "function": {"name": "find", "arguments": {"who": "a@b.c", "type": "x"}}}


def chat(*turns: str, line: int = 1) -> Row:
    roles = ("user", "assistant")
    return Row(Example("f", line, tuple(Message(roles[i % 2], text) for i, text in enumerate(turns))))  # type: ignore[arg-type]


def test_the_table_and_the_recipe_name_the_same_steps() -> None:
    assert {step.name for step in STEPS} == set(Curate.model_fields)
    none = Curate.model_validate(dict.fromkeys(Curate.model_fields))
    assert not row_steps(none, Surroundings())
    assert not set_steps(none, Surroundings())


def test_a_row_shows_its_texts() -> None:
    system = Message("system", "s")
    row = Row(Example("f", 7, (system, Message("user", "q"), Message("assistant", "a"))))
    assert (row.where, row.prompt, row.answers, row.text, row.is_document) == ("f:7", "q", ("a",), "q\n\na", False)
    pair = Row(Pair("f", 1, (Message("user", "q"),), (Message("assistant", "x"),), (Message("assistant", "y"),)))
    assert pair.text == "q\n\nx\n\ny"
    assert Row(Example("f", 1, text="t")).is_document


def test_every_text_of_a_row_can_be_changed_but_no_name() -> None:
    turn = Message("assistant", "hi", reasoning="why", tool_calls=(CALL,), tool_call_id="c1", name="n")
    changed = Row(Example("f", 1, (turn,), tools=({"name": "find"},))).with_texts(str.upper)
    assert isinstance(changed, Example)
    (found,) = changed.messages
    assert (found.content, found.reasoning, found.tool_call_id, found.name) == ("HI", "WHY", "c1", "n")
    function = found.tool_calls[0]["function"]
    assert function["name"] == "find"
    assert function["arguments"]["who"] == "A@B.C"
    assert changed.tools == ({"name": "find"},)


@pytest.mark.parametrize("other", [chat("a  b", "c"), chat("a\nb", "c ")])
def test_duplicates_stay_once(other: Row) -> None:
    step = Duplicates(Settings(), Surroundings())
    rows = [chat("a b", "c"), chat("a b", "d"), other, chat("a b", "c"), Row(Example("f", 9, text="a b"))]
    found = list(step.resolve(Held(step, rows)))
    assert [(one.row, one.kept, one.fate.name if one.fate else None) for one in found] == [
        (2, 0, "duplicate"),
        (3, 0, "duplicate"),
    ]
