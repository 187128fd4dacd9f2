"""What is read out of what a model wrote: the answer, whatever its template writes around it."""

import pytest
from templates import STYLES, tokenizer

from luthier.text import read_answer


@pytest.mark.parametrize("style", sorted(STYLES))
def test_the_answer_is_read_out_of_what_was_trained(style: str) -> None:
    fast, known = tokenizer(style), STYLES[style]
    ids = fast.encode(known.answer("It is three."), add_special_tokens=False)
    assert read_answer(ids, fast).strip() == "It is three."


def test_reasoning_is_left_out() -> None:
    fast = tokenizer("reasons")
    ids = fast.encode("<think>\none and two\n</think>\n\nIt is three.", add_special_tokens=False)
    assert read_answer(ids, fast) == "It is three."


def test_an_answer_without_either_is_kept_to_the_letter() -> None:
    fast = tokenizer("chatml")
    assert read_answer(fast.encode("  a <b>\n", add_special_tokens=False), fast) == "  a <b>\n"
