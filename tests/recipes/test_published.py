"""The recipes of this repository load, and take rows as they are published."""

import json
import re
from pathlib import Path

import pytest
from repository import ROOT

from luthier.pipeline import run_recipe
from luthier.recipe import load_recipe

RECIPES = sorted((ROOT / "recipes").glob("*/recipe.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_a_recipe_loads_and_has_a_page(path: Path) -> None:
    assert load_recipe(path).name == path.parent.name
    page = (path.parent / "README.md").read_text(encoding="utf-8")
    assert "luthier run recipes/" in page
    empty = re.search(r"^\|.*\S.*\| *\|", page, re.MULTILINE)  # the corner of a table may be
    assert not empty, "a table of numbers to expect that was never filled in"


def test_grade_school_rows_are_all_kept(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Ann has {n} apples and buys {n + 1} more. How many apples has she?",
            "answer": f"She has {n}+{n + 1}=<<{n}+{n + 1}={2 * n + 1}>>{2 * n + 1} apples.\n#### {2 * n + 1:,}",
        }
        for n in range(490, 620)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (recipe,) = (path for path in RECIPES if path.parent.name == "gsm8k")
    run = run_recipe(recipe, [f"data.sources.0.path={tmp_path / 'train.jsonl'}"], root=tmp_path / "runs", until="plan")
    facts = run.artifact("dataset").json("facts.json")
    assert facts["fates"] == {"kept": len(rows)}
    assert facts["shapes"] == {"question_answer": len(rows)}
