"""The checks before training find what would train something else than what is served, and name the row."""

from collections.abc import Sequence
from typing import Any

import pytest
from templates import STYLES, tokenizer

from luthier.errors import DataError
from luthier.text import stop_ids
from luthier.text.check import RowCheck, check_rows
from luthier.text.encode import TrainingRow
from luthier.text.render import render_batch
from luthier.text.rows import gather
from luthier.types import Example, Message

TALK = tuple(
    Message("user" if k % 2 == 0 else "assistant", word) for k, word in enumerate(["one", "two", "sum", "three"])
)
EXAMPLES = [Example("f.jsonl", n + 1, (Message("user", f"{n}?"), *TALK[1:])) for n in range(5)]


def look(style: str, examples: Sequence[Example] = EXAMPLES, stop: Sequence[int] | None = None) -> None:
    fast = tokenizer(style)
    found = render_batch(examples, fast)
    rows = gather([row for rows in found if isinstance(rows, list) for row in rows])
    check_rows(
        rows, lambda every: examples[::every], len(examples), RowCheck(fast, stop or stop_ids(fast, end_of(style)))
    )


def end_of(style: str) -> int:
    return int(tokenizer(style).convert_tokens_to_ids(STYLES[style].end))


@pytest.mark.parametrize("style", sorted(STYLES))
def test_rows_of_every_style_pass(style: str) -> None:
    look(style)


def test_an_end_at_which_generation_does_not_stop_is_named() -> None:
    with pytest.raises(DataError, match=r"ends with '<\|im_end\|>', at which generation does not stop") as caught:
        look("chatml", stop=[0])
    assert caught.value.where == "f.jsonl:1"
    assert "model.end_token" in str(caught.value.fix)


def test_plain_texts_may_end_anywhere_and_are_not_made_again() -> None:
    fast = tokenizer("chatml")
    asked: list[int] = []

    def read(every: int) -> list[Example]:
        asked.append(every)
        return [Example("f.jsonl", n + 1, text=f"text {n}") for n in range(0, 400, every)]

    (rows,) = render_batch([Example("f.jsonl", 1, text="a text of some words")], fast, split_at=4)
    assert isinstance(rows, list)
    assert len(rows) > 1
    for plain in (False, True):
        check_rows(gather(rows), read, 400, RowCheck(fast, [end_of("chatml")]), plain=plain)
    assert asked == [1, 2]


def test_two_begin_tokens_are_named() -> None:
    fast = tokenizer("chatml")
    begin = fast.bos_token_id
    (rows,) = render_batch(EXAMPLES[:1], fast)
    assert isinstance(rows, list)
    doubled = TrainingRow([begin, begin, *rows[0].ids], [False, False, *rows[0].trained])
    check = RowCheck(fast, [end_of("chatml")])
    assert check.suspects(gather([doubled]))
    with pytest.raises(DataError, match="begins with two begin tokens: '<s><s>"):
        check.ends(EXAMPLES[0], [doubled])


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_mask_that_is_off_by_one_shows_both_texts(shift: int) -> None:
    fast = tokenizer("chatml")
    (rows,) = render_batch(EXAMPLES[:1], fast)
    assert isinstance(rows, list)
    start = rows[0].trained.index(True)
    mask: list[Any] = list(rows[0].trained)
    mask[start - 1 if shift < 0 else start] = shift < 0
    check = RowCheck(fast, [end_of("chatml")])
    if shift < 0:  # a template may mark its own line break; no more than that is between prompt and mask
        check.served(EXAMPLES[0], [TrainingRow(rows[0].ids, mask)])
        mask[start - 3 : start] = [True] * 3
        mask[1] = True
    with pytest.raises(DataError, match=r"not trained after the prompt that is served: .* against ") as caught:
        check.served(EXAMPLES[0], [TrainingRow(rows[0].ids, mask)])
    assert caught.value.where == "f.jsonl:1"


def test_plain_texts_have_no_turns_to_end() -> None:
    look("chatml", [Example("f.jsonl", 1, text="The sky is blue.")], stop=[0])
