"""Bytes of tokens put together are the text, letters that are cut across tokens included."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import tokenizer

from luthier.text.token_bytes import token_bytes


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "metaspace"])
@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("ab cé€🎻\n.<>"), min_size=1, max_size=12))
def test_the_bytes_are_the_text(kind: str, text: str) -> None:
    tok = tokenizer("chatml", kind)
    ids = tok.encode(text, add_special_tokens=False)
    if "<unk>" in tok.convert_ids_to_tokens(ids):
        return
    written = b"".join(token_bytes(i, tok) for i in ids).decode()
    assert written.lstrip(" ") == text.lstrip(" ")
