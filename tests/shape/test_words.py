"""What the code says about itself: documentation is complete, names are words of the project."""

import ast
import re
from pathlib import Path

import pytest
from repository import ROOT, definitions, files, modules, name_of, parse

from luthier import errors, events
from luthier.recipe import Recipe
from luthier.recipe.section import Section

FORBIDDEN = {"manager", "handler", "helper", "util", "utils", "utility", "engine", "factory", "misc"}


@pytest.mark.parametrize("path", modules("src"), ids=name_of)
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = parse(path)
    bare = [] if ast.get_docstring(tree) else ["the module"]
    found = dict(definitions(tree))
    for name, node in found.items():
        owner = found.get(name.rpartition(".")[0])  # nobody outside sees what a function defines
        public = not any(part.startswith("_") for part in name.split("."))
        if public and not isinstance(owner, ast.FunctionDef) and not ast.get_docstring(node):
            bare.append(name)
    assert not bare, f"without a docstring: {', '.join(bare)}"


def sections(root: type[Section] = Section) -> list[type[Section]]:
    return [found for cls in root.__subclasses__() for found in (cls, *sections(cls))]


@pytest.mark.parametrize("section", sections(), ids=lambda cls: cls.__name__)
def test_every_field_of_the_recipe_is_documented(section: type[Section]) -> None:
    bare = [name for name, field in section.model_fields.items() if not (field.description or "").strip()]
    assert not bare, f"{section.__name__}: no docstring under {', '.join(bare)}"
    assert (section.__doc__ or "").strip()


def test_the_recipe_has_at_most_eight_sections() -> None:
    assert len(Recipe.model_fields.keys() - {"name", "seed"}) <= 8


def classes(module: object) -> list[str]:
    source = parse(Path(str(module.__file__)))
    bare = [node.name for node in source.body if isinstance(node, ast.ClassDef) and not ast.get_docstring(node)]
    assert not bare, f"without a docstring: {', '.join(bare)}"
    return [node.name for node in source.body if isinstance(node, ast.ClassDef)]


def test_every_error_is_documented_and_in_the_tree_at_the_top() -> None:
    for name in classes(errors):
        assert re.search(rf"\b{name}\b", errors.__doc__ or ""), f"{name} is not in the module's docstring"
        cls = getattr(errors, name)
        assert cls.exit_code in {1, 2, 3, 4, 5, 130}
        assert cls.exit_code != 1 or cls is errors.LuthierError, f"{name}: 1 is for bugs"


def test_every_event_is_documented_and_can_be_read_back() -> None:
    assert {cls.__name__ for cls in events.KINDS.values()} == set(classes(events)) - {"Event", "Log"}


@pytest.mark.parametrize("path", modules("src", "tools", "tests"), ids=name_of)
def test_no_name_says_nothing(path: Path) -> None:
    names = [*path.relative_to(ROOT).with_suffix("").parts, *(name for name, _ in definitions(parse(path)))]
    for name in names:
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
        found = {word.lower() for word in words} | {word.lower().removesuffix("s") for word in words}
        assert not found & FORBIDDEN, f"{name}: say what it does instead"


PLACES = ["w" + "ork", "r" + "oot", "tmp/" + "v"]  # in pieces, so that this file is not found itself
PLACE = re.compile(rf"(?<![\w.~*)}}\]-])/({'|'.join(PLACES)})(/|\b(?![\w-]))".encode())


@pytest.mark.parametrize("place", PLACES)
def test_a_mentioned_place_is_found(place: str) -> None:
    assert PLACE.search(f"see /{place}/main".encode())
    assert PLACE.search(f'"/{place}"'.encode())
    assert not PLACE.search(f"src/{place}/main, and/{place}-like".encode())


def test_no_file_mentions_a_place_on_the_machine_it_was_made_on() -> None:
    texts = (path for path in files() if path.suffix not in {".safetensors", ".gguf", ".png", ".ico"})
    found = [
        f"{name_of(path)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if PLACE.search(line)
    ]
    assert not found, f"absolute paths of somebody's machine: {', '.join(found[:10])}"
