"""The demo rows: made anew they are the same, and curating finds what was planted."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from luthier.data import curate
from luthier.recipe import load_recipe

ROOT = Path(__file__).parents[3]
DEFAULT = ROOT / "src/luthier/pipeline/default"


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_demo_rows", ROOT / "tools/make_demo_rows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_its_maker_makes() -> None:
    assert maker().rows() == (DEFAULT / "tickets.jsonl").read_bytes()


def test_the_planted_faults_are_found_and_the_rest_is_kept(tokenizer: Any, tmp_path: Path) -> None:
    recipe = load_recipe(DEFAULT / "recipe.yaml")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"replay": None})})
    facts = curate(recipe, DEFAULT, tokenizer, 1024, tmp_path)
    assert facts["fates"]["kept"] == 406
    assert facts["fates"]["duplicate"] == 25
    unusable = facts["read"] - 406 - 25
    assert 0.05 <= unusable / facts["read"] <= 0.07
    assert len(facts["fates"]) >= 11
    assert len(facts["shapes"]) == 5
    for name in ("train", "validation"):
        for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            system, user, answer = (message["content"] for message in json.loads(line)["messages"])
            assert system == recipe.data.system
            fields = json.loads(answer)
            assert list(fields) == ["name", "item", "order", "issue"]
            assert all(fields[key] in user for key in ("name", "item", "order"))
