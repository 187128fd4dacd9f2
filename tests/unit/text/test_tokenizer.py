"""The one door to tokenizers."""

from pathlib import Path

import pytest
from tiny import base, tokenizer

from luthier.errors import DataError
from luthier.text import load_tokenizer, stop_ids
from luthier.text.tokenizer import control_tokens


def test_a_saved_tokenizer_is_loaded_without_padding_or_truncation() -> None:
    found = load_tokenizer(base().folder)
    assert found.backend_tokenizer.padding is None
    assert found.backend_tokenizer.truncation is None
    assert found.chat_template == tokenizer().chat_template


def test_no_tokenizer_is_said_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer can be loaded") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_stop_ids_are_those_of_the_config_and_the_end_token() -> None:
    assert stop_ids(tokenizer()) == (4,)
    assert stop_ids(tokenizer(), 2) == (2, 4)
    assert stop_ids(tokenizer(), [4, 2, 4]) == (4, 2)


def test_control_tokens_are_all_special_ones() -> None:
    assert control_tokens(tokenizer()) == {"<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"}
