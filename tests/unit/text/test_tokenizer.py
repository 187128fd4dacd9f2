"""The one door to tokenizers."""

from pathlib import Path

import pytest
from tiny import base, tokenizer

from luthier.errors import DataError, Missing
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


def test_a_sentencepiece_model_alone_says_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.text import tokenizer as door

    (tmp_path / "tokenizer.model").write_bytes(b"SentencePiece's own format")
    monkeypatch.setattr(door, "find_spec", lambda name: None if name == "sentencepiece" else 1)
    with pytest.raises(Missing, match="what reads it is not installed: sentencepiece\n") as caught:
        load_tokenizer(tmp_path)
    assert (caught.value.exit_code, caught.value.fix) == (5, "pip install 'luthier[sentencepiece]'")


def test_a_sentencepiece_model_alone_reads_as_sentencepiece_does(tmp_path: Path) -> None:
    """As Llama 2 and its relatives were published, but trained here."""
    spm = pytest.importorskip("sentencepiece", reason="pip install 'luthier[sentencepiece]'")
    pytest.importorskip("google.protobuf")
    text = ["What is the sum of one and two? It is three.", "Name the colour of the sky: blue. The user asked."] * 9
    with (tmp_path / "tokenizer.model").open("wb") as file:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=file, model_type="bpe", vocab_size=320, byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
            minloglevel=2,
        )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    found, theirs = load_tokenizer(tmp_path), spm.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    for line in (*text[:2], "Naïve café 12  34\n", "\N{SNOWMAN}"):
        assert found(line, add_special_tokens=False)["input_ids"] == theirs.encode(line)


def test_stop_ids_are_those_of_the_config_and_the_end_token() -> None:
    assert stop_ids(tokenizer()) == (4,)
    assert stop_ids(tokenizer(), 2) == (2, 4)
    assert stop_ids(tokenizer(), [4, 2, 4]) == (4, 2)


def test_control_tokens_are_all_special_ones() -> None:
    assert control_tokens(tokenizer()) == {"<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"}
