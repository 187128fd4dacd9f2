"""Rows that mean the same: stars over cosines against brute force, and the step with a random encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_encoder

from luthier.data.meaning import BLOCK, SemanticDuplicates, stars
from luthier.data.step import Held, Row, Surroundings
from luthier.recipe import curate
from luthier.types import Example


def test_stars_are_those_of_brute_force_over_several_blocks() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 16))
    vectors = np.concatenate([base, base + 0.1 * rng.normal(size=base.shape), base + 0.4 * rng.normal(size=base.shape)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert len(vectors) > 2 * BLOCK
    centre, alike = stars(vectors, 0.9)
    cosines = vectors @ vectors.T
    expected = np.full(len(vectors), -1)
    for i in range(len(vectors)):
        if expected[i] < 0:
            expected[(cosines[i] >= 0.9) & (expected < 0)] = i
    assert np.array_equal(centre, expected)
    assert np.allclose(alike, [1 if c == i else cosines[i, c] for i, c in enumerate(centre)], atol=1e-6)
    assert (centre != np.arange(len(vectors))).sum() > 150


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "encoder")
    return tmp_path


def run(home: Path, texts: list[str], **options: Any) -> tuple[list[Any], SemanticDuplicates]:
    step = SemanticDuplicates(curate.SemanticDuplicates(encoder="encoder", **options), Surroundings(home))
    return list(step.resolve(Held(step, [Row(Example("f", i, text=text)) for i, text in enumerate(texts)]))), step


SAME = ["The sky is blue.", "0" * 40, "The sky is blue. "]


def test_the_longer_of_two_rows_of_one_vector_stays(home: Path) -> None:
    found, step = run(home, SAME, threshold=0.9, review_from=0.9)
    (one,) = (one for one in found if one.row == 0)
    assert one.kept == 2
    assert one.fate.name == "semantic_duplicate"
    assert one.fate.score > 0.9
    assert step.report()["dropped"] == len(found)


def test_rows_can_be_kept_together_or_looked_at(home: Path) -> None:
    found, _ = run(home, SAME, threshold=0.9, review_from=0.9, action="group")
    assert (0, 2) in [(one.row, one.together) for one in found]
    found, step = run(home, SAME, threshold=1.0, review_from=0.2)
    assert all(one.risk > 0 or one.fate for one in found)
    assert step.report()["to_review"] >= 1


def test_another_encoder_is_another_step(home: Path) -> None:
    _, step = run(home, SAME)
    before = step.fingerprint()
    config = home / "encoder" / "config.json"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    assert step.fingerprint() != before
