"""A task of the user's own: one YAML file that says where the rows are, how to ask and how to score.

name: capitals
rows: capitals.jsonl                # beside this file; or a list of rows right here
prompt: "What is the capital of {country}?"
expected: "{capital}"
scorer: {name: f1}
decoding: {max_new_tokens: 16}
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from luthier.errors import DataError, RecipeError
from luthier.evaluate.items import Decoding, Item, Kind, Role, Summary, Task, unscored
from luthier.evaluate.judge import CRITERION, Endpoint, score_all
from luthier.evaluate.rows import read_rows, read_text
from luthier.evaluate.scorers import find_scorer
from luthier.evaluate.summaries import corpus_bleu, means, pass_at, perplexity
from luthier.recipe.section import Section
from luthier.types import Message, Score

_FIELD = re.compile(r"\{(\w+)\}")


class Drawing(Section):
    """How answers are drawn."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer; a quarter longer than the longest expected one when not given."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The nucleus to draw from."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers to each item."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw."""
    stop: tuple[str, ...] = ()
    """Texts at which an answer is cut."""


class TaskFile(Section):
    """One task. `{key}` in a text stands for the row's value."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:-]*$")]
    """Name of the metric."""
    rows: str | list[dict[str, Any]]
    """A .jsonl, .json or .csv file beside this one, or the rows themselves."""
    kind: Kind = "generate"
    """`generate` an answer, `choose` the likeliest choice, or the `likelihood` of a text."""
    system: str | None = None
    """A system message before the prompt."""
    prompt: str = "{prompt}"
    """The question."""
    plain: bool = False
    """Ask in plain text, without the chat template."""
    expected: str = "{answer}"
    """The right answer; for `choose` the right choice, or its number from 0."""
    others: str | None = None
    """The key of a list of further right answers."""
    choices: str = "choices"
    """The key of the list to choose from."""
    group: str = ""
    """A slice of the result, `{subject}` for example."""
    scorer: dict[str, Any] = Field(default_factory=lambda: {"name": "exact_match"})
    """The scorer's name and its settings."""
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Report pass@k for these k over the samples of an item."""
    decoding: Drawing = Drawing()
    """How answers are drawn."""


def read_task(path: Path, role: Role = "task") -> Task:
    """Read a task from its YAML file.

    Raises:
        RecipeError: a key or value that cannot be; each is told.
        DataError: the rows cannot be used.
    """
    try:
        body = yaml.safe_load(read_text(path))
        file = TaskFile.model_validate(body)
    except yaml.YAMLError as error:
        raise RecipeError(f"not YAML: {error}", where=str(path), fix="mend the file") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise RecipeError(told, where=str(path), fix="see docs/evaluation.md for the keys of a task") from error
    return make_task(file, path.parent, str(path), role)


def make_task(file: TaskFile, folder: Path, where: str, role: Role = "task") -> Task:
    """The task that a description means; relative paths are looked for in `folder`."""
    if max(file.pass_at, default=1) > file.decoding.samples:
        raise RecipeError("pass_at needs as many samples", where=where, fix=f"decoding.samples={max(file.pass_at)}")
    settings = dict(file.scorer)
    name = settings.pop("name", None)
    asks_judge = file.kind == "generate" and name == "judge"
    judge = _judge(settings, where) if asks_judge else None
    plain = file.kind != "generate" or asks_judge
    score = unscored if plain else find_scorer(str(name), settings, where=where)
    summary: Summary = means
    if file.kind == "likelihood":
        summary = perplexity
    elif file.pass_at:
        summary = pass_at(file.pass_at)
    elif file.kind == "generate" and name == "bleu":
        summary = corpus_bleu
    rows: Sequence[tuple[str, dict[str, Any]]]
    if isinstance(file.rows, str):
        rows = list(read_rows(folder / file.rows))
    else:
        rows = [(f"{where}:{n}", row) for n, row in enumerate(file.rows, 1)]
    items = tuple(_item(file, row, place, n) for n, (place, row) in enumerate(rows, 1))
    check_ids(items, where)
    decoding = Decoding(**file.decoding.model_dump())
    scoring = f"{file.kind} {file.scorer if file.kind == 'generate' else ''}".strip()
    return Task(file.name, items, score, file.kind, decoding, summary, scoring, role, score_all=judge)


def _judge(settings: Mapping[str, Any], where: str) -> Callable[[Sequence[str], Sequence[Item]], list[Score]]:
    """The scorer `judge`: `url` and `model` of an endpoint, `key_env`, and the `criterion` to meet."""
    known = {"url", "model", "key_env", "criterion"}
    if not {"url", "model"} <= settings.keys() <= known:
        told = ", ".join(sorted(known))
        raise RecipeError(f"the judge needs url and model, and takes {told}", where=where, fix="see docs/evaluation.md")
    endpoint = Endpoint(str(settings["url"]), str(settings["model"]), str(settings.get("key_env", "OPENAI_API_KEY")))
    return partial(score_all, ask=endpoint, criterion=str(settings.get("criterion", CRITERION)))


def check_ids(items: Sequence[Item], where: str) -> None:
    """Raise unless every item has an id of its own, for results are paired by them.

    Raises:
        DataError: two items have the same id.
    """
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"two items have the id '{item.id}'", where=where, fix="give each its own id")
        seen.add(item.id)


def fill(template: str, row: Mapping[str, Any], where: str) -> str:
    """The template with every `{key}` replaced by the row's value; braces that are no key stay.

    Raises:
        DataError: the row lacks a key.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in row:
            has = ", ".join(map(str, row))
            raise DataError(f"no '{match[1]}' in this row; its keys are {has}", where=where, fix="mend row or task")
        return str(row[match[1]])

    return _FIELD.sub(value, template)


def _item(file: TaskFile, row: Mapping[str, Any], where: str, number: int) -> Item:
    conversation = isinstance(row.get("messages"), list) and file.prompt == "{prompt}"
    optional = file.kind == "likelihood" and "prompt" not in row
    prompt = "" if conversation or optional else fill(file.prompt, row, where)
    plain = file.plain or file.kind == "likelihood"
    turns = [Message("system", file.system)] if file.system else []
    turns += [Message.from_json(turn) for turn in row["messages"]] if conversation else [Message("user", prompt)]
    choices: tuple[str, ...] = ()
    expected = str(row.get("text", "")) if file.kind == "likelihood" else fill(file.expected, row, where)
    if file.kind == "choose":
        given = row.get(file.choices)
        if not isinstance(given, list) or len(given) < 2:
            raise DataError(f"'{file.choices}' is no list of at least two", where=where, fix="mend this row")
        choices = tuple(map(str, given))
        expected = expected if expected in choices else _numbered(expected, choices, where)
    others = row.get(file.others, []) if file.others else []
    return Item(
        id=str(row.get("id", number)),
        prompt=() if plain else tuple(turns),
        expected=expected,
        group=fill(file.group, row, where),
        text=(f"{file.system}\n\n" if file.system else "") + prompt if plain else None,
        others=tuple(map(str, others)),
        choices=choices,
        more={k: row[k] for k in ("schema",) if k in row},
    )


def _numbered(expected: str, choices: tuple[str, ...], where: str) -> str:
    if expected.isdigit() and int(expected) < len(choices):
        return choices[int(expected)]
    raise DataError(f"the expected '{expected}' is none of the choices", where=where, fix="mend this row")
