"""Formatted conversations in one text: read back when they are the model's own, refused when they are another's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from templates import STYLES, plain, tokenizer

from luthier.errors import TemplateError
from luthier.text import render, render_batch
from luthier.types import Example, Message

WORDS = st.lists(st.sampled_from("one two three sum sky blue What is it ?".split()), min_size=1, max_size=5).map(
    " ".join
)
TALKS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)
FRAMED = sorted(
    set(STYLES) - {"dated", "no_end", "role_ends", "late_end", "always_asks", "reasons", "parts", "mistral"}
)


def rows(text: str, style: str) -> Any:
    (found,) = render_batch([Example("f", 1, text=text)], tokenizer(style))
    return found


@pytest.mark.parametrize("style", FRAMED)
@given(talk=TALKS, system=st.none() | WORDS)
def test_the_models_own_format_is_masked_like_the_conversation(style: str, talk: Any, system: str | None) -> None:
    fast = tokenizer(style)
    messages = [m for q, a in talk for m in (Message("user", q), Message("assistant", a))]
    if system and STYLES[style].system:
        messages = [Message("system", system), *messages]
    text = fast.apply_chat_template([plain(m) for m in messages], tokenize=False)
    assert rows(text, style) == render(messages, fast)
    assert rows(text.removeprefix(fast.bos_token).strip() + "\n", style) == render(messages, fast)


def test_a_tutorials_row_of_llama_2_is_read_back() -> None:
    text = "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWhat is one? [/INST] It is one. </s>"
    (row,) = rows(text, "llama2")
    fast = tokenizer("llama2")
    assert fast.decode([i for i, t in zip(row.ids, row.trained, strict=True) if t]) == " It is one. </s>"


@pytest.mark.parametrize(
    ("text", "style", "family"),
    [
        ("<s>[INST] a [/INST] b </s>", "chatml", "Llama 2 or Mistral"),
        ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>", "llama3", "ChatML"),
        ("<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>", "zephyr", "Gemma"),
    ],
)
def test_another_familys_format_is_refused_by_name(text: str, style: str, family: str) -> None:
    found = rows(text, style)
    assert isinstance(found, TemplateError)
    assert f"formatted for {family}," in found.what


def test_white_space_is_kept_where_the_template_keeps_it() -> None:
    (row,) = rows("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n one<|im_end|>\n", "chatml")
    assert [row] == render([Message("user", "hi"), Message("assistant", " one")], tokenizer("chatml"))


def test_nearly_the_own_format_is_refused() -> None:
    found = rows(
        "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\none",
        "llama3",
    )
    assert isinstance(found, TemplateError)
    assert "is no conversation as the chat template writes it" in found.what
    parted = rows("[INST]  a  [/INST]  b  </s>", "llama2")
    assert isinstance(parted, TemplateError)
    assert "not quite: '[INST]  a" in parted.what
    assert "where the template has" in parted.what


def test_a_text_about_other_things_stays_a_text() -> None:
    (row,) = rows("The tag [INST] opens a question.", "chatml")
    assert sum(row.trained) == len(row.ids) - 1
