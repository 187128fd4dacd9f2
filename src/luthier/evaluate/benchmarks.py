"""Retention suites in their published file formats: MMLU and HellaSwag, asked as choices by likelihood.

| suite | source | how it is asked |
| --- | --- | --- |
| MMLU | Hendrycks et al. 2021 | its heading, five dev questions of the subject, the question; the likeliest letter |
| HellaSwag | Zellers et al. 2019 | the context as plain text; the likeliest ending, `acc_norm` by its length |
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import DataError
from luthier.evaluate.items import Item, Task
from luthier.evaluate.rows import need, read_rows, read_table
from luthier.evaluate.summaries import means
from luthier.evaluate.taskfile import check_ids

LETTERS = ("A", "B", "C", "D")
MMLU_TABLE = ("question", "A", "B", "C", "D", "answer")
MMLU_HUB = ("question", "subject", "choices", "answer")
HELLASWAG = ("ind", "activity_label", "ctx_a", "ctx_b", "ctx", "split", "split_type", "label", "endings", "source_id")
SHOTS = 5
_BRACKETS = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its choices as text, its subject, and the right letter."""

    subject: str
    text: str
    letter: str


def mmlu(path: Path, name: str) -> list[Task]:
    """MMLU, as its authors publish it or as the hub does.

    The authors' folder has `test/*_test.csv` with `dev/*_dev.csv` beside it (or one such table; or the folder `val`):
    question, four choices and a letter, without a heading. The hub's has `test-*.parquet` with `dev-*.parquet` beside
    it: question, subject, choices as a list, and the answer's number; in a copy of all of it, `all/` is read.

    Raises:
        DataError: a line is not a question, four choices and an answer.
    """
    hub = _hub_files(path, "test") if path.is_dir() else [path] * (path.suffix == ".parquet")
    questions, shots = _from_hub(hub) if hub else _from_tables(path)
    before, items = {}, []
    for subject in {question.subject for question in questions}:
        known = [f"{shot.text} {shot.letter}\n\n" for shot in shots if shot.subject == subject][:SHOTS]
        heading = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        before[subject] = heading + "".join(known)
    counts: Counter[str] = Counter()
    for q in questions:
        text = before[q.subject] + q.text
        items.append(Item(f"{q.subject}/{counts[q.subject]}", (), q.letter, q.subject, text=text, choices=LETTERS))
        counts[q.subject] += 1
    check_ids(items, str(path))
    return [Task(name, tuple(items), kind="choose", summarise=means, scoring="choose mmlu")]


def _from_tables(path: Path) -> tuple[list[Question], list[Question]]:
    """The questions of the authors' tables, and those of `dev` that belong to them."""
    tables = [path]
    if path.is_dir():
        tables = sorted(path.rglob("*_test.csv")) or sorted(path.rglob("*_val.csv"))
    if not tables:
        fix = "give the folder of MMLU's data, with test/ and dev/ in it, or one such file"
        raise DataError("no *_test.csv and no test-*.parquet in this folder", where=str(path), fix=fix)
    questions: list[Question] = []
    shots: list[Question] = []
    for table in tables:
        subject = re.sub("_(test|val|dev)$", "", table.stem)
        dev = table.parent.parent / "dev" / f"{subject}_dev.csv"
        questions += (_of_line(row, subject, where) for where, row in read_table(table))
        shots += (_of_line(row, subject, where) for where, row in (read_table(dev) if dev.is_file() else ()))
    return questions, shots


def _hub_files(folder: Path, split: str) -> list[Path]:
    found = sorted(folder.rglob(f"{split}-*.parquet"))
    return [file for file in found if file.parent.name == "all"] or found


def _from_hub(files: Sequence[Path]) -> tuple[list[Question], list[Question]]:
    """The questions of the hub's tables, and those of `dev` beside them."""
    questions = [_of_hub(row, where) for file in files for where, row in read_rows(file)]
    beside = sorted({dev for file in files for dev in file.parent.glob("dev-*.parquet")})
    return questions, [_of_hub(row, where) for file in beside for where, row in read_rows(file)]


def _of_line(row: list[str], subject: str, where: str) -> Question:
    """Of the line of a table without a heading."""
    if len(row) != len(MMLU_TABLE) or row[5].strip() not in LETTERS:
        columns = ", ".join(MMLU_TABLE)
        told = f"not a question, four choices and a letter; the columns expected, without a heading, are {columns}"
        raise DataError(told, where=where, fix="mend this line")
    return Question(subject, _asked(row[0], row[1:5]), row[5].strip())


def _of_hub(row: Mapping[str, Any], where: str) -> Question:
    """Of a row in the hub's form; its answer is a number from 0."""
    question, subject, choices, answer = (need(dict(row), column, where, MMLU_HUB) for column in MMLU_HUB)
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or answer not in range(len(LETTERS)):
        raise DataError("not four choices and the number of one, 0 to 3", where=where, fix="mend this row")
    return Question(str(subject), _asked(str(question), choices), LETTERS[answer])


def _asked(question: str, choices: Sequence[str]) -> str:
    lines = "".join(f"{letter}. {str(choice).strip()}\n" for letter, choice in zip(LETTERS, choices, strict=True))
    return f"{question.strip()}\n{lines}Answer:"


def hellaswag(path: Path, name: str) -> list[Task]:
    """HellaSwag's `hellaswag_val.jsonl`, or the hub's Parquet: ctx_a, ctx_b, activity_label, endings, label.

    Raises:
        DataError: a line lacks one of these; the file `test` has no labels.
    """
    items: list[Item] = []
    seen: set[str] = set()
    for number, (where, row) in enumerate(read_rows(path)):
        given, second = ("ctx_a" if "ctx_a" in row else "ctx"), ""
        if given == "ctx_a":
            second = str(row.get("ctx_b") or "").capitalize()
        context = f"{need(row, given, where, HELLASWAG)} {second}".strip()
        endings, label = need(row, "endings", where, HELLASWAG), str(need(row, "label", where, HELLASWAG))
        if not isinstance(endings, list) or not label.isdigit() or int(label) >= len(endings):
            raise DataError("the label is no number of an ending", where=where, fix="use the validation file")
        key = str(row.get("ind", number))
        key = f"{key}:{number}" if key in seen else key  # both of its sources count from their own beginning
        seen.add(key)
        choices = tuple(_plain(str(ending)) for ending in endings)
        if len(set(choices)) < len(choices):
            choices = tuple(map(str, endings))
        text = _plain(f"{row.get('activity_label', '')}: {context}")
        items.append(
            Item(
                key,
                expected=choices[int(label)],
                group=str(row.get("activity_label", "")),
                text=text,
                choices=choices,
            )
        )
    check_ids(items, str(path))
    return [Task(name, tuple(items), kind="choose", summarise=means, scoring="choose hellaswag")]


def _plain(text: str) -> str:
    """Without the marks of its source, wikiHow, and with single blanks."""
    return " ".join(_BRACKETS.sub("", text.replace(" [title]", ". ")).split())
