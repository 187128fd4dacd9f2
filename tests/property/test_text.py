"""Laws of rendering, for three kinds of template and any text: what is trained is the answers, and what is served."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import ENDS, TEMPLATES, tokenizer

from luthier.text import render, render_prompt
from luthier.types import Message

CONTROLS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
LETTERS = st.characters(codec="utf-8", exclude_characters="\x00")
PIECES = st.sampled_from(
    ["🎻", "👩‍👩‍👧", "é", "e\u0301", "日本", " ", "\n", "  ", "i", "s", "|>", "</", "[INST]", "the sum of"]
)
TEXTS = st.lists(st.one_of(PIECES, LETTERS), max_size=12).map("".join)
SAFE = TEXTS.filter(lambda text: not any(token in text for token in CONTROLS))
ANSWERS = SAFE.filter(lambda text: bool(text.strip()))
TALKS = st.lists(st.tuples(SAFE, ANSWERS), min_size=1, max_size=3)


def turns(talk: list[tuple[str, str]]) -> list[Message]:
    return [turn for asked, answer in talk for turn in (Message("user", asked), Message("assistant", answer))]


def runs(row: Any) -> list[tuple[int, list[int]]]:
    """The trained stretches of a row: where each starts, and its ids."""
    found: list[tuple[int, list[int]]] = []
    for place, (token, trained) in enumerate(zip(row.ids, row.trained, strict=True)):
        if trained and (not place or not row.trained[place - 1]):
            found.append((place, []))
        if trained:
            found[-1][1].append(token)
    return found


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@given(talk=TALKS)
def test_the_trained_tokens_are_the_answers_with_their_end_and_nothing_else(
    name: str, talk: list[tuple[str, str]]
) -> None:
    fast = tokenizer(name)
    row = render(turns(talk), fast)[0]
    written = [fast.decode(ids) for _, ids in runs(row)]
    around = (" {} " if name == "llama2" else "{}").format
    assert written == [around(a.strip() if name == "llama2" else a) + ENDS[name] for _, a in talk]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@given(talk=TALKS)
def test_each_answer_follows_the_prompt_that_would_be_served(name: str, talk: list[tuple[str, str]]) -> None:
    fast = tokenizer(name)
    messages = turns(talk)
    row = render(messages, fast)[0]
    starts = [place for place, _ in runs(row)]
    for k, start in enumerate(starts):
        assert render_prompt(messages[: 2 * k + 1], fast) == row.ids[:start]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@given(talk=TALKS)
def test_a_row_is_the_whole_conversation_as_the_template_writes_it(name: str, talk: list[tuple[str, str]]) -> None:
    fast = tokenizer(name)
    messages = turns(talk)
    plain = [{"role": m.role, "content": m.content} for m in messages]
    assert render(messages, fast)[0].ids == fast.apply_chat_template(plain, return_dict=False)
