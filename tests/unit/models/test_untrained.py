"""Control tokens that pre-training never met are found by their embeddings."""

import torch
from tiny import base, tokenizer

from luthier.models.load import load_model
from luthier.models.untrained import untrained_tokens

CONTROLS = [1, 2, 3, 4]


def test_learned_tokens_are_not_suspected() -> None:
    assert untrained_tokens(load_model(base(), "float32"), CONTROLS) == []


def test_zero_tiny_and_equal_rows_are_found() -> None:
    model = load_model(base(), "float32")
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[1] = 0.0
        weight[2] *= 1e-3
        weight[3] = weight[4]
    assert untrained_tokens(model, CONTROLS) == [1, 2, 3, 4]
    assert untrained_tokens(model, [3, len(tokenizer()) - 1]) == []
