"""The card says where a model comes from and what nobody measured, and nothing of somebody's machine."""

from typing import Any

from luthier.release.card import card
from luthier.release.origin import Origin
from luthier.types import Metric

FACTS: Any = {
    "fates": {"kept": 90, "duplicate": 7, "empty": 0},
    "train": {"rows": 80, "trained_tokens": 4321, "longest": 211},
    "validation": {"rows": 10},
    "sources": [
        {"path": "/home/somebody/secret/tickets.jsonl", "rows": 97, "kept": 90, "sha256": "ab" * 32},
        {"path": "hub:owner/name", "rows": 3, "kept": 3, "sha256": "cd" * 32},
    ],
}


def write(**more: Any) -> str:
    licences = {"hub:owner/name": "CC-BY-4.0"}
    given: Any = {"base": "Qwen/Qwen3-0.6B", "revision": "c0ffee", "licence": "apache-2.0", "facts": FACTS}
    given |= {"licences": licences, "hashes": {"model": "ef" * 32}, "context": 4096} | more
    before = {"exact_match": Metric("exact_match", 0.1, 0, 1, 10), "skills": Metric("skills", 0.9, 0, 1, 10)}
    after = {"exact_match": Metric("exact_match", 0.8, 0, 1, 10), "skills": Metric("skills", 0.85, 0, 1, 10)}
    return card("tickets", Origin(**given), method="lora", rows=80, before=before, after=after, rules=[], parity={})


def test_rows_licences_and_hashes_are_named() -> None:
    page = write()
    assert "| `tickets.jsonl` | 97 | 90 | not given |" in page
    assert "| `hub:owner/name` | 3 | 3 | CC-BY-4.0 |" in page
    assert "80 rows were trained on, 4,321 tokens of them learned; 10 were held out. Left out: 7 duplicate." in page
    assert "- model: `efefefefefefefef`" in page
    assert "/home" not in page
    assert page.startswith("---\nbase_model: Qwen/Qwen3-0.6B\nlicense: apache-2.0\n")


def test_a_base_that_the_hub_does_not_have_is_no_link() -> None:
    page = write(base="my-model", revision=None, licence=None)
    assert "base_model" not in page
    assert "license" not in page.partition("# tickets")[0]
    assert "Base: `my-model`. Its card names no licence" in page


def test_limits_are_those_that_were_found() -> None:
    page = write(system="Answer in\nJSON.", unmeasured=["safety"])
    assert "at most 211 tokens long (the base was made for 4,096)" in page
    assert 'to be used with it: "Answer in JSON."' in page
    assert "- Worse than the base: skills (0.900 to 0.850)." in page
    assert "- Safety was not measured." in page
