"""Laws of the recipe, over recipes that nobody thought of."""

import string
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import RecipeError
from luthier.recipe import Recipe, build_recipe, dump_recipe

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SMALL: dict[str, Any] = {"name": "small", "data": {"sources": [{"path": "rows.jsonl"}]}}


def number(
    low: float, high: float = 1e9, *, open_low: bool = True, open_high: bool = False
) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=open_low, exclude_max=open_high, allow_subnormal=False)


def section(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of the fields: what is left out takes its default."""
    return st.fixed_dictionaries({}, optional=fields)


def kind(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return section(**fields).map(lambda drawn: {"kind": name, **drawn})


LORA = {
    "rank": st.integers(1, 4096),
    "alpha": number(0),
    "dropout": number(0, 1, open_low=False, open_high=True),
    "target_modules": st.just("all-linear") | st.lists(TEXT, max_size=3),
}
TRAINING = section(
    epochs=number(0),
    max_steps=st.none() | st.integers(1),
    learning_rate=st.none() | number(0),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    warmup=number(0, 1, open_low=False, open_high=True),
    micro_batch_tokens=st.none() | st.integers(16),
    packing=st.booleans(),
    patience=st.none() | st.integers(1),
)
RECIPES = st.fixed_dictionaries(
    {
        "name": st.text(string.ascii_letters + string.digits, min_size=1, max_size=20),
        "data": st.fixed_dictionaries(
            {"sources": st.lists(st.fixed_dictionaries({"path": TEXT}), min_size=1, max_size=3)},
            optional={"system": st.none() | TEXT, "max_rejected": number(0, 1, open_low=False)},
        ),
    },
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "model": section(base=TEXT, revision=st.none() | TEXT, trust_remote_code=st.booleans()),
        "tuning": kind("auto")
        | kind("full")
        | kind("lora", **LORA)
        | kind("qlora", double_quantisation=st.booleans(), **LORA),
        "training": TRAINING,
        "evaluate": section(tasks=st.lists(TEXT, max_size=3), retention=st.none() | st.lists(TEXT, max_size=3)),
        "gate": section(rules=st.none() | st.lists(st.sampled_from(["a improves", "b at least -0.5"]), max_size=2)),
        "release": section(merge=st.booleans()),
    },
)


@given(RECIPES)
def test_the_resolved_recipe_loads_to_an_equal_one(values: dict[str, Any]) -> None:
    recipe = build_recipe(values)
    again = build_recipe(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


def outcome(values: dict[str, Any], *overrides: str) -> Recipe | str:
    """The recipe, or the sentence that refuses it; any other exception is a bug."""
    try:
        return build_recipe(values, overrides)
    except RecipeError as error:
        return error.what


@given(RECIPES, st.sampled_from(["name", "seed", "data.sources.0.path", "training.epochs", "tuning.rank"]), TEXT)
def test_any_override_gives_a_recipe_or_a_sentence(values: dict[str, Any], key: str, value: str) -> None:
    assert outcome(values, f"{key}={value}")


@given(TEXT)
def test_any_word_as_an_override_gives_a_recipe_or_a_sentence(override: str) -> None:
    assert outcome(SMALL, override)


@given(st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.lists(st.integers(), max_size=2), max_size=3))
def test_every_unknown_key_is_named(extra: dict[str, Any]) -> None:
    unknown = {key: value for key, value in extra.items() if key not in Recipe.model_fields}
    result = outcome(SMALL | unknown)
    assert isinstance(result, str) == bool(unknown)
    assert all(f"unknown key '{key}'" in str(result) for key in unknown)
