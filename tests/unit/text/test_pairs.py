"""Pairs as rows: the same prompt, the last answer trained, and an order that a file keeps."""

from pathlib import Path

import numpy as np
import pytest
from tiny import tokenizer

from luthier.errors import TemplateError
from luthier.text import interleave, load_rows, render_pair, save_rows
from luthier.types import Message, Pair

PROMPT = (Message("user", "1?"), Message("assistant", "one"), Message("user", "2?"))


def pair(chosen: str = "two", rejected: str = "three") -> Pair:
    return Pair("x.jsonl", 1, PROMPT, (Message("assistant", chosen),), (Message("assistant", rejected),))


def test_only_the_last_answer_is_trained_and_the_prompt_is_common() -> None:
    rows = render_pair(pair(), tokenizer())
    for row, answer in zip(rows, ("two", "three"), strict=True):
        trained = [i for i, t in zip(row.ids, row.trained, strict=True) if t]
        assert tokenizer().decode(trained) == answer + "<|im_end|>"
    start = rows[0].trained.index(True)
    assert rows[1].trained.index(True) == start
    assert rows[0].ids[:start] == rows[1].ids[:start]


def test_what_cannot_be_a_pair_says_which_side() -> None:
    with pytest.raises(TemplateError, match=r"rejected: .*the answer is empty"):
        render_pair(pair(rejected=" "), tokenizer())
    with pytest.raises(TemplateError, match="are the same"):
        render_pair(pair(rejected="two"), tokenizer())


def test_pairs_and_ratings_survive_a_file(tmp_path: Path) -> None:
    pairs = [render_pair(pair(rejected=other), tokenizer()) for other in ("three", "four")]
    save_rows(tmp_path / "rows.safetensors", interleave(pairs), [2.0, 0.0, 0.5, 0.0])
    found = load_rows(tmp_path / "rows.safetensors")
    assert [found.row(i) for i in range(4)] == [*pairs[0], *pairs[1]]
    assert found.ratings is not None
    assert np.diff(found.ratings.reshape(2, 2)).tolist() == [[-2.0], [-0.5]]
    assert found.select([2, 3]).ratings.tolist() == [0.5, 0.0]  # type: ignore[union-attr]
    plain = found.select([0])
    save_rows(tmp_path / "plain.safetensors", [plain.row(0)])
    assert load_rows(tmp_path / "plain.safetensors").ratings is None
