"""The recipe: what is refused, and in which words."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from luthier.errors import RecipeError
from luthier.plan.decide import SAMPLED
from luthier.recipe import Auto, Full, Lora, Objective, Qlora, Recipe, Tuning, build_recipe, dump_recipe, load_recipe

SMALL = {"name": "small", "data": {"sources": [{"path": "rows.jsonl"}]}}


def build(*overrides: str, **sections: object) -> Recipe:
    return build_recipe(SMALL | sections, overrides)


def refusal(*overrides: str, **sections: object) -> str:
    with pytest.raises(RecipeError) as caught:
        build(*overrides, **sections)
    assert caught.value.exit_code == 2
    return caught.value.what


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"traning": {"epochs": 1}}, "unknown key 'traning'; did you mean 'training'?"),
        ({"training": {"learning_rat": 1}}, "unknown key 'training.learning_rat'; did you mean 'learning_rate'?"),
        (
            {"data": {"sources": [{"path": "a", "shap": "text"}]}},
            "unknown key 'data.sources.0.shap'; did you mean 'shape'?",
        ),
        (
            {"data": {**SMALL["data"], "replay": {"path": "a", "shere": 1}}},
            "unknown key 'data.replay.shere'; did you mean 'share'?",
        ),
        ({"tuning": {"kind": "qlora", "rnak": 3}}, "unknown key 'tuning.rnak'; did you mean 'rank'?"),
        ({"tuning": {"kind": "full", "rank": 4}}, "unknown key 'tuning.rank'; known keys: kind"),
        ({"tuning": {"kind": "auto", "rank": 4}}, "unknown key 'tuning.rank'; known keys: kind"),
        ({"tuning": {"kind": "lora", "ranks": 4}}, "unknown key 'tuning.ranks'; did you mean 'rank'?"),
        ({"tuning": {"kind": "lora", "double_quantisation": True}}, "unknown key 'tuning.double_quantisation'"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_the_nearest_known_one(sections: dict, sentence: str) -> None:
    assert sentence in refusal(**sections)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"tuning": {"kind": "lroa"}}, "tuning: kind 'lroa' is not one of"),
        ({"tuning": {"rank": 8}}, "tuning: 'kind' is missing"),
        ({"tuning": "lora"}, "tuning: is a section with keys of its own, not 'lora'"),
        ({"training": None}, "training: is a section with keys of its own, not None"),
        ({"training": {"epochs": "many"}}, "training.epochs: input should be a valid number"),
        ({"training": {"epochs": float("inf")}}, "training.epochs: input should be a finite number"),
        ({"tuning": {"kind": "lora", "target_modules": 3}}, "tuning.target_modules: input should be a valid list"),
        ({"data": {"sources": []}}, "data.sources: list should have at least 1 item"),
        ({"gate": {"rules": ["be good"]}}, "gate.rules: 'be good' is not a rule"),
        ({"release": {"merge": False, "dtype": "float32"}}, "release.dtype has no effect"),
        ({"training": {"batch_tokens": 64, "micro_batch_tokens": 128}}, "must not exceed training.batch_tokens"),
        ({"training": {"batch_tokens": 64, "micro_batch_tokens": 128, "packing": False}}, "must not exceed"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(sections: dict, sentence: str) -> None:
    assert sentence in refusal(**sections)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        build_recipe(
            {
                "name": 5,
                "seeed": 1,
                "data": {"sources": [{"pth": "a"}], "split": {"validation": 2}},
                "tuning": {"kind": "lora", "rank": 0, "alfa": 1},
                "training": {"epochs": "x", "clip": -1},
            }
        )
    told = caught.value.what.splitlines()
    starts = (
        "name:",
        "data.sources.0.path: is missing",
        "data.split.validation:",
        "tuning.rank:",
        "training.epochs:",
        "training.clip:",
    )
    assert all(any(line.startswith(start) for line in told) for start in starts)
    for path in ("seeed", "data.sources.0.pth", "tuning.alfa"):
        assert any(line.startswith(f"unknown key '{path}'; did you mean") for line in told)
    assert len(told) == 9
    assert caught.value.fix


def test_the_union_takes_each_kind() -> None:
    assert build().tuning == Auto()
    assert build(tuning={"kind": "full"}).tuning == Full(kind="full")
    assert build(tuning={"kind": "lora", "rank": 4}).tuning == Lora(kind="lora", rank=4)
    assert build(tuning={"kind": "qlora", "rank": 4}).tuning == Qlora(kind="qlora", rank=4)


def test_overrides() -> None:
    recipe = build(
        "training.learning_rate=2e-4",
        "training.max_steps=7",
        "model.revision=12e4567",  # the beginning of a commit, not a number
        "data.sources.0.path=x",
        "data.sources.1.path=y.jsonl",
        "tuning.kind=lora",
        "tuning.rank=4",
        "evaluate.tasks=[final_number]",
        "gate.rules.0=loss at most 3",
        "data.system='a=b: is text'",
    )
    assert recipe.training.learning_rate == 2e-4
    assert recipe.training.max_steps == 7
    assert recipe.model.revision == "12e4567"
    assert [source.path for source in recipe.data.sources] == ["x", "y.jsonl"]
    assert recipe.tuning == Lora(kind="lora", rank=4)
    assert recipe.evaluate.tasks == ["final_number"]
    assert recipe.gate.rules == ["loss at most 3"]
    assert recipe.data.system == "a=b: is text"


def test_an_override_fills_an_empty_section_and_leaves_the_given_values_alone() -> None:
    values = {**SMALL, "training": None}
    assert build_recipe(values, ["training.epochs=1", "data.sources.0.path=other"]).training.epochs == 1
    assert values["training"] is None
    assert SMALL["data"]["sources"] == [{"path": "rows.jsonl"}]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("epochs", "'epochs' is not key=value"),
        ("=3", "'=3' is not key=value"),
        ("training..epochs=3", "is not key=value"),
        ("training.epochs=[", "the value in 'training.epochs=[' cannot be read"),
        ("training.epochs=2026-13-01", "cannot be read"),
        ("name.first=x", "'small' has no keys"),
        ("data.sources.first.path=x", "'first' is not a position in a list of 1"),
        ("data.sources.7.path=x", "'7' is not a position in a list of 1"),
        ("data.sources.²=x", "'²' is not a position in a list of 1"),
        ("training.epoch=3", "unknown key 'training.epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_nonsense_override_gives_a_sentence(override: str, sentence: str) -> None:
    assert sentence in refusal(override)


def test_paths_may_be_path_objects() -> None:
    recipe = build_recipe({"name": "x", "data": {"sources": ({"path": Path("a") / "b"},)}})
    assert recipe.data.sources[0].path == str(Path("a/b"))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: a\ndata: {sources: [\n", 3, "not YAML"),
        ("name: a\nmodel: base: ukulele\n", 2, "mapping values are not allowed here"),
        ("name: a\ndata: {}\nname: b\n", 3, "'name' is written twice"),
        ("name: a\nmodel:\n  base: x\n  base: y\n", 4, "'base' is written twice"),
        ("name: a\nmodel:\n\tbase: x\n", 3, "not YAML"),
        ("name: a\n# \x07\n", 2, "special characters are not allowed"),
    ],
)
def test_a_yaml_error_names_the_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=words) as caught:
        load_recipe(path)
    assert caught.value.where == f"{path}:{line}"


@pytest.mark.parametrize("content", [b"- 1\n", b"", b"just text", b"day: 2026-13-01\n", b"\xff\xfe\xff"])
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.where == str(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file") as caught:
        load_recipe(tmp_path / "none.yaml")
    assert caught.value.where == str(tmp_path / "none.yaml")


def test_the_resolved_recipe_is_complete_and_loads_to_an_equal_one(tmp_path: Path) -> None:
    recipe = build(tuning={"kind": "qlora", "rank": 4})
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert all(name in path.read_text(encoding="utf-8") for name in ("patience", "alpha", "micro_batch_tokens"))


def kinds(union: object) -> list[str]:
    """The kinds of a section that has several."""
    return [get_args(one.model_fields["kind"].annotation)[0] for one in get_args(get_args(union)[0])]


@pytest.mark.parametrize(
    ("section", "kind"),
    [("objective", kind) for kind in kinds(Objective)] + [("tuning", kind) for kind in kinds(Tuning)],
)
def test_every_kind_with_its_defaults_written_out_loads_again(section: str, kind: str) -> None:
    needed = {"rewards": [{"kind": "scorer", "scorer": "exact_match"}]} if kind in SAMPLED else {}
    recipe = build(**{section: {"kind": kind, **needed}})
    assert build_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe
