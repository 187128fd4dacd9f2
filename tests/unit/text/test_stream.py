"""An answer told in pieces is the answer that is read when all is written."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import STYLES, tokenizer
from tiny import tokenizer as byte_level

from luthier.text import read_answer
from luthier.text.stream import AnswerStream

TEXTS = st.lists(
    st.sampled_from(
        ["Hello", " world", "ä", "🎻", "\n\n", "<think>", "</think>", "<b>", "END", "EN", " a < b", "<", "  ", "."]
    ),
    max_size=12,
).map("".join)


def told(tok: Any, ids: list[int], **settings: Any) -> tuple[list[str], AnswerStream]:
    stream = AnswerStream(tok, **settings)
    pieces = [stream.add(token) for token in ids]
    return [*pieces, stream.finish()], stream


@pytest.mark.parametrize("style", sorted(STYLES))
@settings(max_examples=25, deadline=None)
@given(text=TEXTS)
def test_the_pieces_are_the_answer(style: str, text: str) -> None:
    tok = tokenizer(style)
    ids = tok.encode(text, add_special_tokens=False)
    pieces, stream = told(tok, ids)
    right = read_answer(ids, tok)
    closed_late = "</think>" in text and not text.lstrip().startswith("<think>")
    if not closed_late and text.count("</think>") < 2:
        assert "".join(pieces) == stream.text == right
    assert not any(piece.endswith("\N{REPLACEMENT CHARACTER}") for piece in pieces[:-1])


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, stops=st.lists(st.sampled_from(["END", "D", "\n\n", " wor", "🎻"]), min_size=1, max_size=3))
def test_a_text_that_ends_the_answer_is_never_shown(text: str, stops: list[str]) -> None:
    tok = byte_level()
    ids = tok.encode(text, add_special_tokens=False)
    pieces, stream = told(tok, ids, stops=stops, raw=True)
    cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert "".join(pieces) == (text[: min(cuts)] if cuts else text)
    assert stream.ended == bool(cuts)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "metaspace"])
@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("ab cé€🎻\n.<"), max_size=20))
def test_pieces_of_any_kind_of_tokenizer_are_its_text(kind: str, text: str) -> None:
    tok = tokenizer("chatml", kind)
    ids = tok.encode(text, add_special_tokens=False)
    pieces, _ = told(tok, ids, raw=True)
    assert "".join(pieces) == tok.decode(ids)


def test_words_come_as_soon_as_they_are_written() -> None:
    tok = byte_level()
    ids = tok.encode("one two three", add_special_tokens=False)
    pieces, _ = told(tok, ids)
    assert all(pieces[:-1])
    assert not pieces[-1]


def test_reasoning_that_the_prompt_began_is_not_shown() -> None:
    tok = byte_level()
    ids = tok.encode("let me see</think>\n\nBlue.", add_special_tokens=False)
    pieces, _ = told(tok, ids, prompt="<|im_start|>assistant\n<think>\n")
    assert "".join(pieces) == "Blue."
    typed = "is <think> a tag?<|im_end|>\n<|im_start|>assistant\n"  # only what stands at the prompt's end counts
    pieces, _ = told(tok, tok.encode("Yes.", add_special_tokens=False), prompt=typed)
    assert pieces[0]
