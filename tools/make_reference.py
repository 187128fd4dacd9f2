"""Writes the pages of docs/reference from the code; `--check` only compares.

The recipe's page comes from the pydantic tree (a docstring under a field is its documentation), the errors' page from
the classes in `luthier.errors`, Python's page from the public functions and the classes they return.
"""

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pages import ROOT, settle
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import luthier
from luthier.artifact import Artifact
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.runs import Run
from luthier.types import Metric

NOTE = "<!-- made by tools/make_reference.py from the code; change the docstrings there -->\n"
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
MEANINGS = {
    0: "done",
    1: "a bug of Luthier's own; the only case with a traceback",
    2: "the recipe, an override or an option cannot work",
    3: "input data cannot be used",
    4: "a check on the model failed: training, gate or parity",
    5: "something is missing on this machine; the message says how to get it",
    130: "interrupted; the state is saved, the same command goes on",
}


def parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; anything else alone."""
    if get_origin(annotation) is Annotated:
        return parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for member in get_args(annotation) for part in parts(member))
    return (annotation,)


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold."""
    found = []
    for part in parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            found.append(part)
        elif get_origin(part) is list:
            found += sections(get_args(part)[0])
    return found


def type_name(annotation: Any) -> str:
    """The type in words a recipe's author uses."""
    names = []
    for part in parts(annotation):
        if part is type(None):
            continue
        if get_origin(part) is Literal:
            names += [f"`{value}`" for value in get_args(part)]
        elif get_origin(part) is list or (get_origin(part) is tuple and get_args(part)[-1] is ...):
            names.append(f"list of {type_name(get_args(part)[0])}")
        elif get_origin(part) is tuple:
            names.append(" and ".join(type_name(member) for member in get_args(part)))
        elif get_origin(part) is dict:
            key, value = get_args(part)
            names.append(f"map from {type_name(key)} to {type_name(value)}")
        elif issubclass(part, BaseModel):
            names.append("section")
        else:
            names.append({str: "text", int: "whole number", float: "number", bool: "true or false"}[part])
    return " or ".join(dict.fromkeys(names))


def bounds(annotation: Any, metadata: list[Any]) -> Iterator[str]:
    """The limits of a number, given on the field or inside its annotation."""
    for member in (annotation, *get_args(annotation)):
        if get_origin(member) is Annotated:
            metadata = [*metadata, *get_args(member)[1:]]
    for limit in metadata:
        limits = getattr(limit, "metadata", None) or [limit]
        for one in limits:
            for key, words in BOUNDS.items():
                if isinstance(one, annotated_types.BaseMetadata) and hasattr(one, key):
                    value = getattr(one, key)
                    yield f"{words} {'2^63' if value == 2**63 else value}"


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", None)
        return f"`{{kind: {kind}}}`" if kind else "all defaults"
    return "none" if value is None else f"`{json.dumps(value)}`"


def table(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        kind = ", ".join([type_name(field.annotation), *bounds(field.annotation, field.metadata)])
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {kind} | {default(field)} | {meaning} |")
    return "\n".join(rows)


def chapters(model: type[BaseModel], path: str, level: int) -> Iterator[str]:
    """A chapter for every section below `model`, in the order of the recipe."""
    for name, field in model.model_fields.items():
        found = sections(field.annotation)
        in_list = any(get_origin(part) is list for part in parts(field.annotation))
        below = f"{path}.{name}".lstrip(".") + (".N" if in_list else "")
        for section in found:
            kind = section.model_fields.get("kind")
            title = f"`{below}` with `kind: {get_args(kind.annotation)[0]}`" if kind else f"`{below}`"
            doc = " ".join((section.__doc__ or "").split())
            yield f"{'#' * level} {title}\n\n{doc}\n\n{table(section)}\n"
            yield from chapters(section, below, level + 1)


def recipe_page() -> str:
    intro = (
        "# The recipe\n\n"
        "One YAML file says what is wanted of a run. A key that is not listed here is refused. Every value can also\n"
        "be given on the command line as `section.key=value`; items of a list by position, counted from 0\n"
        "(`data.sources.0.path=rows.jsonl`). `luthier init` writes a recipe to start from.\n\n"
    )
    top = f"## Top level\n\n{table(Recipe)}\n"
    return NOTE + intro + "\n".join([top, *chapters(Recipe, "", 2)])


def classes(root: type[LuthierError]) -> Iterator[type[LuthierError]]:
    for cls in root.__subclasses__():
        yield cls
        yield from classes(cls)


def errors_page() -> str:
    known = list(classes(LuthierError))
    lines = [
        "# Exit codes and errors\n",
        "Every message says what happened, where, and what to run next. With `--json` the same three are in the",
        "document as `what`, `where` and `fix`. In Python every error below is a `luthier.errors.LuthierError`.\n",
        "| exit code | meaning | classes |",
        "| --- | --- | --- |",
    ]
    for code, meaning in MEANINGS.items():
        names = ", ".join(f"`{cls.__name__}`" for cls in known if cls.exit_code == code)
        lines.append(f"| {code} | {meaning} | {names} |")
    lines += ["", "| class | is a | exit code | meaning |", "| --- | --- | --- | --- |"]
    for cls in known:
        doc = " ".join((cls.__doc__ or "").split())
        lines.append(f"| `{cls.__name__}` | `{cls.__base__.__name__}` | {cls.exit_code} | {doc} |")
    assert {cls.exit_code for cls in known} <= MEANINGS.keys(), "an exit code without a meaning"
    return NOTE + "\n".join(lines) + "\n"


PYTHON_INTRO = """# Luthier from Python

Everything the command line does with a recipe, from a script or a notebook. The package is typed (`py.typed`), and
`import luthier` loads neither torch nor pydantic; what a call needs is loaded when it is made.

```python
import luthier
from luthier.errors import GateFailed

try:
    run = luthier.run("recipe.yaml", "training.epochs=2")
except GateFailed as error:
    run = error.run                                   # trained and measured, but not released
print(run.metrics["exact_match"])                     # 0.734 [0.615, 0.827] n=64
print(run.metrics["before/exact_match"].value)        # the base model, on the same prompts
print(run.artifact("dataset").json("facts.json")["fates"])
print(run.folder / "report.html")
```

A recipe may be a path or a mapping with the same keys. Errors are those of [Exit codes and errors](errors.md).
"""


def signature(function: Any) -> str:
    """Parameters and result, as short as they are written in the code."""
    found = inspect.signature(function)
    parameters = [p.replace(annotation=Words(p.annotation)) for name, p in found.parameters.items() if name != "self"]
    return str(found.replace(parameters=parameters, return_annotation=Words(found.return_annotation)))


class Words:
    """A type as people write it."""

    def __init__(self, annotation: Any) -> None:
        text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
        self.text = re.sub(r"\b[a-z_]+\.", "", text)

    def __repr__(self) -> str:
        return self.text


def entry(name: str, function: Any) -> str:
    return f"### `{name}{signature(function)}`\n\n{paragraphs(function.__doc__)}\n"


def paragraphs(doc: str | None) -> str:
    """A docstring in Google's style as Markdown."""
    lines = []
    for line in inspect.cleandoc(doc or "").split("\n"):
        if line in ("Args:", "Raises:", "Returns:"):
            lines.append(f"*{line}*\n")
        else:
            lines.append(f"- {line.strip()}" if line.startswith("    ") else line)
    return "\n".join(lines)


def public(cls: type, members: Sequence[str]) -> Iterator[str]:
    """A class with its fields and those members that users call."""
    yield f"## `{cls.__module__}.{cls.__name__}`\n\n{paragraphs(cls.__doc__)}\n"
    fields = [f"`{field.name}: {Words(field.type)}`" for field in dataclasses.fields(cls)]
    yield f"Fields: {', '.join(fields)}\n"
    for name in members:
        member = vars(cls)[name]
        if isinstance(member, property):
            result = Words(inspect.signature(member.fget).return_annotation)
            yield f"### `.{name}: {result}`\n\n{paragraphs(member.__doc__)}\n"
        else:
            yield entry(f".{name}", member)


def python_page() -> str:
    functions = [entry(f"luthier.{name}", getattr(luthier, name)) for name in ("run", "open_run")]
    classes = {Run: ("name", "artifact", "events"), Artifact: ("path", "json", "verify"), Metric: ()}
    chapters = [text for cls, members in classes.items() for text in public(cls, members)]
    return NOTE + PYTHON_INTRO + "\n" + "\n".join(["## Functions\n", *functions, *chapters])


def main() -> int:
    folder = ROOT / "docs" / "reference"
    pages = {
        folder / "recipe.md": recipe_page(),
        folder / "errors.md": errors_page(),
        folder / "python.md": python_page(),
    }
    return settle(pages, "python tools/make_reference.py")


if __name__ == "__main__":
    sys.exit(main())
