"""Vectors of texts: mean pooling over the real tokens, of length one, whatever the batch and however long the text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import save_encoder
from transformers import AutoModel, AutoTokenizer

from luthier.errors import DataError
from luthier.models.base import Base
from luthier.models.encoder import Encoder, find_encoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    return find_encoder(folder.name, folder.parent, "data.curate.x.encoder")


def by_hand(base: Base, text: str) -> np.ndarray:
    model = AutoModel.from_pretrained(base.folder).eval()
    ids = AutoTokenizer.from_pretrained(base.folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
    return mean / np.linalg.norm(mean)


def test_a_vector_is_the_mean_over_tokens_whatever_is_in_the_batch(base: Base) -> None:
    texts = ["the sky", "0123456789 one and two", "a"] * 13
    found = Encoder(base).encode(texts)
    assert found.shape == (39, 32)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts[:3], found, strict=False):
        assert np.allclose(vector, by_hand(base, text), atol=1e-5)
    assert np.allclose(found[:3], found[-3:], atol=1e-5)


def test_a_long_text_is_read_to_its_end(base: Base) -> None:
    encoder = Encoder(base)
    start = "name the colour of the sky " * 20
    same, other = encoder.encode([start + "blue", start + "3" * 60])
    assert float(same @ other) < 0.9999
    assert encoder.encode([]).shape == (0, 32)


def test_a_folder_without_an_encoder_is_named(base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model in transformers' format"):
        find_encoder(str(tmp_path), tmp_path, "x")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="the encoder cannot be loaded"):
        Encoder(find_encoder(str(tmp_path), tmp_path, "x"))
