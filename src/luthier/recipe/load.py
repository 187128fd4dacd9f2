"""Reading a recipe: YAML, `key=value` overrides, and errors that name the key and the nearest known one."""

import difflib
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path, PurePath
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
    tree: dict[str, Any] = _copy(values)
    for override in overrides:
        _apply(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(
            "\n".join(dict.fromkeys(_sentence(problem, tree) for problem in error.errors())),
            where=where,
            fix="luthier init shows a complete recipe; docs/reference/recipe.md lists every key",
        ) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    tree = recipe.model_dump(mode="json")
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes text with unusual line ends: PyYAML writes them bare and reads them back as spaces."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\r\x85\u2028\u2029\ufeff]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice: YAML keeps the last one and drops the other in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is written twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _copy(value: Any) -> Any:
    """Plain dicts and lists, which overrides may change; paths as text."""
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(inner) for inner in value]
    return str(value) if isinstance(value, PurePath) else value


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        if isinstance(error, yaml.reader.ReaderError):  # a character that YAML does not allow
            line = text.count("\n", 0, error.position) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        place = f"{where}:{line}" if line else where
        raise RecipeError(f"not YAML: {problem}", where=place, fix="mend this line" if line else None) from error
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of sections", where=where, fix="luthier init makes one")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise RecipeError(f"'{override}' is not key=value", fix="write for example training.epochs=5")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"the value in '{override}' cannot be read", fix="quote it") from error
    node: Any = tree
    for key, following in zip(parents, (*parents, last)[1:], strict=True):
        node = _enter(node, key, following, override)
    if isinstance(node, list):
        _item(node, last, override)
        node[int(last)] = value
    else:
        _mapping(node, override)[last] = value


def _enter(node: Any, key: str, following: str, override: str) -> Any:
    """What lies under `key`; made when it is not there, as a list when a position follows."""
    if isinstance(node, list):
        return _item(node, key, override)
    if _mapping(node, override).get(key) is None:
        node[key] = [] if following.isdecimal() else {}
    return node[key]


def _mapping(node: Any, override: str) -> dict[str, Any]:
    if isinstance(node, dict):
        return node
    raise RecipeError(f"{node!r} has no keys", where=override, fix="docs/reference/recipe.md lists every key")


def _item(items: list[Any], key: str, override: str) -> Any:
    """The item at a position; the position after the last one adds an item."""
    if key.isdecimal() and int(key) == len(items):
        items.append({})
    if not key.isdecimal() or int(key) >= len(items):
        raise RecipeError(f"'{key}' is not a position in a list of {len(items)}", where=override, fix="count from 0")
    return items[int(key)]


def _sentence(problem: ErrorDetails, tree: Mapping[str, Any]) -> str:
    place, kind = problem["loc"], problem["type"]
    path = _dotted(place, tree)
    if kind == "extra_forbidden":
        known = _keys(place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}" if known else ""
        return f"unknown key '{path}'; {hint}".rstrip("; ")
    text = problem["msg"].removeprefix("Value error, ")
    if kind == "missing":
        text = "is missing"
    elif kind in ("model_type", "model_attributes_type"):
        text = f"is a section with keys of its own, not {problem['input']!r}"
    elif kind == "union_tag_not_found":
        text = "'kind' is missing"
    elif kind == "union_tag_invalid":
        context = problem.get("ctx", {})
        text = f"kind '{context.get('tag')}' is not one of {context.get('expected_tags')}"
    else:
        text = text[0].lower() + text[1:]
        if not isinstance(problem["input"], (dict, list)) and place:
            text += f", not {problem['input']!r}"
    return f"{path}: {text}" if path else text


def _dotted(place: tuple[int | str, ...], tree: Mapping[str, Any]) -> str:
    """The path as the user wrote it: pydantic adds the kinds and types of unions, which are not in the recipe."""
    path: list[str] = []
    node: Any = tree
    for i, part in enumerate(place):
        in_list = isinstance(node, list) and isinstance(part, int)
        in_mapping = isinstance(node, dict) and part in node and not (part == node.get("kind") and place[i - 1] != part)
        if in_list or in_mapping:
            node = node[part]
        elif part not in _keys(place[:i]):
            continue
        path.append(str(part))
    return ".".join(path)


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """The keys known at a place of the recipe."""
    models: list[type[BaseModel]] = [Recipe]
    for part in place:
        if isinstance(part, int):
            continue
        inner = [
            m for model in models if part in model.model_fields for m in _models(model.model_fields[part].annotation)
        ]
        if inner:
            models = inner
        else:  # the tag of a union, which narrows the choice
            models = [m for m in models if "kind" in m.model_fields and part in repr(m.model_fields["kind"].annotation)]
    return sorted({key for model in models for key in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models(part)]
