"""Reading a recipe: YAML, `key=value` overrides, and errors that name the key and the nearest known one."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from luthier.errors import RecipeError
from luthier.recipe.recipe import Recipe


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply overrides such as `training.epochs=5`.

    Raises:
        RecipeError: the file is missing or not YAML, a key is unknown, or a value does not fit.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"cannot read the recipe: {reason}", where=str(path), fix="luthier init makes one") from error
    return build_recipe(_parse(text, str(path)), overrides, where=str(path))


def build_recipe(values: Mapping[str, Any], overrides: Iterable[str] = (), *, where: str = "recipe") -> Recipe:
    """Check a recipe given as a nested mapping, after applying overrides.

    Raises:
        RecipeError: a key is unknown, or a value does not fit.
    """
    tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(values))) or {}
    for override in overrides:
        _apply(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(
            "\n".join(_sentence(problem) for problem in error.errors()),
            where=where,
            fix="luthier init shows a complete recipe; docs/reference/recipe.md lists every key",
        ) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or "cannot be read"
        raise RecipeError(f"not YAML: {problem}", where=line, fix="mend this line") from error
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of sections", where=where, fix="luthier init makes one")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"'{override}' is not key=value", fix="write for example training.epochs=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value in '{override}' cannot be read", fix="quote it") from error
    if isinstance(value, str):
        value = _number(value)
    *parents, last = path.split(".")
    node: Any = tree
    for i, key in enumerate(parents):
        if isinstance(node, list):
            node = _item(node, key, override)
        elif isinstance(node, dict):
            following = (*parents, last)[i + 1]
            node = node.setdefault(key, [] if following.isdigit() else {})
        else:
            raise RecipeError(f"'{'.'.join(parents[:i])}' has no keys", where=override, fix="see docs/reference/recipe.md")
    if isinstance(node, list):
        if last.isdigit() and int(last) == len(node):
            node.append(value)
        else:
            _item(node, last, override)
            node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"'{'.'.join(parents)}' has no keys", where=override, fix="see docs/reference/recipe.md")


def _item(items: list[Any], key: str, override: str) -> Any:
    if key.isdigit() and int(key) == len(items):
        items.append({})
    if not key.isdigit() or int(key) >= len(items):
        raise RecipeError(f"'{key}' is not a position in a list of {len(items)}", where=override, fix="count from 0")
    return items[int(key)]


def _number(text: str) -> str | float:
    """YAML 1.1 reads `2e-4` as text; people mean the number."""
    try:
        return float(text) if any(c.isdigit() for c in text) and "e" in text.lower() else text
    except ValueError:
        return text


def _sentence(problem: ErrorDetails) -> str:
    place = [part for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        *parents, key = place
        known = _keys(parents)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}" if known else ""
        return f"unknown key '{_dotted(place)}'; {hint}".rstrip("; ")
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        text = "is missing"
    elif problem["type"] == "union_tag_invalid":
        context = problem.get("ctx", {})
        text = f"kind '{context.get('tag')}' is not one of {context.get('expected_tags')}"
    else:
        text = text[0].lower() + text[1:]
        if not isinstance(problem["input"], (dict, list)) and place:
            text += f", not {problem['input']!r}"
    return f"{_dotted(place)}: {text}" if place else text


def _dotted(place: list[int | str]) -> str:
    """The path as the user wrote it: pydantic puts the kind of a union between section and key."""
    tags = {"auto", "full", "lora", "qlora"}
    return ".".join(str(p) for i, p in enumerate(place) if not (i == 1 and place[0] == "tuning" and p in tags))


def _keys(place: list[int | str]) -> list[str]:
    """The keys known at a place of the recipe."""
    models: list[type[BaseModel]] = [Recipe]
    for part in place:
        if isinstance(part, int):
            continue
        inner = [m for model in models if part in model.model_fields for m in _models(model.model_fields[part].annotation)]
        if inner:
            models = inner
        else:  # the tag of a union, which narrows the choice
            models = [m for m in models if "kind" in m.model_fields and part in repr(m.model_fields["kind"].annotation)]
    return sorted({key for model in models for key in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models(part)]
