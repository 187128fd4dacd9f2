"""Laws of rendering, for every style of template and kind of tokenizer: what is trained is the answers, and as served.

The oracle is transformers' own `apply_chat_template`: it gives the prompt of each turn, and it knows nothing of masks.
"""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from templates import KINDS, LOSSLESS, STYLES, plain, served, stretches, tokenizer

from luthier.errors import TemplateError
from luthier.text import render, render_prompt
from luthier.types import Message

LETTERS = st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs", "Cn", "Co"])
PIECES = st.sampled_from(
    ["🎻", "👩‍👩‍👧", "é", "e\u0301", "日本", " ", "\n", "  ", "i", "s", "|>", "</", "assistant", "user: ", "the sum of"]
)
TYPED = st.sampled_from(["<s>", "</s>", "<|im_end|>", "<|im_start|>", "<|end|>", "[INST]", "[/INST]", "<|user|>"])
TEXTS = st.lists(st.one_of(PIECES, LETTERS), max_size=12).map("".join)
ANSWERS = TEXTS.filter(lambda text: bool(text.strip()))
WORDS = st.lists(
    st.sampled_from("one two three the sum of sky blue What is it ? . ,".split()), min_size=1, max_size=6
).map(" ".join)
EXCHANGES = st.lists(st.tuples(TEXTS.filter(lambda t: bool(t.strip())), ANSWERS), min_size=1, max_size=3)
PLAIN_EXCHANGES = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)


def talk(exchanges: list[tuple[str, str]], system: str | None = None) -> list[Message]:
    """The turns of a conversation."""
    turns = [turn for asked, answer in exchanges for turn in (Message("user", asked), Message("assistant", answer))]
    return [Message("system", system), *turns] if system else turns


def rendered(messages: list[Message], fast: Any) -> Any:
    """The rows; none where letters join across the end of the prompt, which is the one reason to refuse these turns."""
    try:
        return render(messages, fast)
    except TemplateError as error:
        if "tokenising the prompt alone" not in error.what:
            raise
        return None


def check(style: str, fast: Any, messages: list[Message], rows: Any) -> list[tuple[int, list[int]]]:
    """Each answer is trained once, right after the prompt that would be served; gives the stretches by turn."""
    answers = [k for k, message in enumerate(messages) if message.role == "assistant"]
    prompts = {tuple(served(fast, messages[:k], parts=STYLES[style].parts)): k for k in answers}
    found = {}
    for row in rows:
        assert len(row.ids) == len(row.trained)
        for start, ids in stretches(row):
            k = prompts[tuple(row.ids[:start])]
            assert k not in found, "an answer is trained twice"
            found[k] = (start, ids)
    assert sorted(found) == sorted(prompts.values())
    return [found[k] for k in sorted(found)]


@pytest.mark.parametrize("style", sorted(STYLES))
@given(exchanges=EXCHANGES, system=st.none() | ANSWERS)
def test_trained_is_each_answer_with_its_end_after_the_served_prompt(
    style: str, exchanges: Any, system: str | None
) -> None:
    fast, known = tokenizer(style), STYLES[style]
    messages = talk(exchanges, system if known.system else None)
    rows = rendered(messages, fast)
    assume(rows)
    written = [fast.decode(ids) for _, ids in check(style, fast, messages, rows)]
    assert written == [known.answer(answer) + known.end for _, answer in exchanges]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", sorted(STYLES))
@given(exchanges=PLAIN_EXCHANGES)
def test_every_kind_of_tokenizer_trains_the_same_turns(style: str, kind: str, exchanges: Any) -> None:
    fast, known = tokenizer(style, kind), STYLES[style]
    messages = talk(exchanges)
    rows = rendered(messages, fast)
    if not rows:
        assert kind == "sentencepiece"  # it may join letters across a blank
        return
    for (_, ids), (_, answer) in zip(check(style, fast, messages, rows), exchanges, strict=True):
        assert ids[-1] == fast.convert_tokens_to_ids(known.end)
        written = fast.decode(ids[:-1]).lower().replace(" ", "")  # white space is not every tokenizer's business
        assert written.endswith(answer.lower().replace(" ", ""))


@pytest.mark.parametrize("kind", LOSSLESS)
@given(exchanges=st.lists(st.tuples(st.tuples(TEXTS, TYPED, TEXTS).map("".join), ANSWERS), min_size=1, max_size=2))
def test_control_tokens_that_are_typed_stay_text(kind: str, exchanges: Any) -> None:
    for style in ("chatml", "llama2", "zephyr", "mistral"):
        fast, known = tokenizer(style, kind), STYLES[style]
        messages = talk(exchanges)
        rows = rendered(messages, fast)
        if not rows:
            continue
        check(style, fast, messages, rows)
        ends = sum(row.ids.count(fast.convert_tokens_to_ids(known.end)) for row in rows)
        clean = render(talk([("x", "y")] * len(exchanges)), fast)
        assert ends == sum(row.ids.count(fast.convert_tokens_to_ids(known.end)) for row in clean)


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"parts"}))
@given(exchanges=EXCHANGES)
def test_one_row_is_the_conversation_as_the_template_writes_it(style: str, exchanges: Any) -> None:
    fast = tokenizer(style)
    messages = talk(exchanges)
    rows = rendered(messages, fast)
    assume(rows)
    whole = fast.apply_chat_template([plain(m) for m in messages], return_dict=False)
    if STYLES[style].rows == 1:
        assert len(rows) == 1
        assert rows[0].ids[: len(whole)] == whole
    else:
        assert len(rows) == len(exchanges)


@pytest.mark.parametrize("style", sorted(STYLES))
@given(exchanges=EXCHANGES)
def test_the_prompt_is_what_transformers_serves(style: str, exchanges: Any) -> None:
    messages = talk(exchanges)[:-1]
    expected = served(tokenizer(style), messages, parts=STYLES[style].parts)
    assert render_prompt(messages, tokenizer(style)) == expected


@given(exchanges=EXCHANGES)
def test_the_marked_tokens_are_those_that_transformers_marks(exchanges: Any) -> None:
    fast = tokenizer("marked")
    messages = [plain(m) for m in talk(exchanges)]
    found = fast.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    (row,) = render(messages, fast)
    assert row.ids == found["input_ids"]
    assert [int(trained) for trained in row.trained] == found["assistant_masks"]
