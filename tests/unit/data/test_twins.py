"""No near twins on both sides of the split: curated rows, checked pair by pair with what bench/twins.py counts."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("twins", Path(__file__).parents[3] / "bench/twins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def families(count: int) -> list[dict[str, str]]:
    """Questions of thirty words, each three times with one word exchanged."""
    r = random.Random(2)
    words = ["".join(r.choices("abcdefghij", k=5)) for _ in range(900)]
    rows = []
    for _ in range(count):
        asked = [r.choice(words) for _ in range(60)]
        for _ in range(3):
            asked[r.randrange(60)] = r.choice(words)
            rows.append({"question": " ".join(asked), "answer": "yes"})
    return rows


def test_clusters_stand_on_one_side(bench: Any, check: ModuleType) -> None:
    rows = families(60)
    bench.curate(*rows, split={"validation": 0.3})
    training, held = (check.read(bench.out / f"{side}.jsonl") for side in ("train", "validation"))
    assert len(training) + len(held) == 180
    assert len(held) >= 30
    assert not list(check.twins(training, held, 0.75))
    everything = training + held
    assert len(list(check.twins(everything, everything, 0.75))) >= 180 + 2 * 120  # there are twins to be divided


def test_pairs_are_counted_right(check: ModuleType) -> None:
    a, b = check.shingles("abcdefgh"), check.shingles("abcdefgx")
    ((i, j, index),) = check.twins([{"other"}, a], [b], 0.1)
    assert (i, j) == (1, 0)
    assert index == pytest.approx(len(a & b) / len(a | b))
    assert not list(check.twins([a], [b], 0.99))
