"""Retention suites in their published file formats: MMLU and HellaSwag, asked as choices by likelihood.

| suite | source | how it is asked |
| --- | --- | --- |
| MMLU | Hendrycks et al. 2021 | its heading, five dev questions of the subject, the question; the likeliest letter |
| HellaSwag | Zellers et al. 2019 | the context as plain text; the likeliest ending, `acc_norm` by its length |
"""

import re
from pathlib import Path

from luthier.errors import DataError
from luthier.evaluate.items import Item, Task
from luthier.evaluate.rows import need, read_rows, read_table
from luthier.evaluate.summaries import means
from luthier.evaluate.taskfile import check_ids

LETTERS = ("A", "B", "C", "D")
SHOTS = 5
_BRACKETS = re.compile(r"\[[^\]]*\]")


def mmlu(path: Path, name: str) -> list[Task]:
    """MMLU's folder, `test/*_test.csv` with `dev/*_dev.csv` beside it, or one such table; lines without a heading.

    Raises:
        DataError: a line is not a question, four choices and a letter.
    """
    tables = sorted(path.rglob("*_test.csv")) if path.is_dir() else [path]
    if not tables:
        raise DataError("no *_test.csv in this folder", where=str(path), fix="give the folder of MMLU's data")
    items: list[Item] = []
    for table in tables:
        subject = table.name.removesuffix(".csv").removesuffix("_test")
        dev = table.parent.parent / "dev" / f"{subject}_dev.csv"
        shots = [_question(row, where) for where, row in read_table(dev)][:SHOTS] if dev.is_file() else []
        heading = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        before = heading + "".join(f"{asked} {right}\n\n" for asked, right in shots)
        for number, (where, row) in enumerate(read_table(table)):
            asked, right = _question(row, where)
            items.append(
                Item(f"{subject}/{number}", expected=right, group=subject, text=before + asked, choices=LETTERS)
            )
    check_ids(items, str(path))
    return [Task(name, tuple(items), kind="choose", summarise=means, scoring="choose mmlu")]


def _question(row: list[str], where: str) -> tuple[str, str]:
    """The question with its choices as text, and the right letter."""
    if len(row) != 6 or row[5].strip() not in LETTERS:
        raise DataError("not a question, four choices and a letter", where=where, fix="mend this line")
    choices = "".join(f"{letter}. {choice.strip()}\n" for letter, choice in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0].strip()}\n{choices}Answer:", row[5].strip()


def hellaswag(path: Path, name: str) -> list[Task]:
    """HellaSwag's `hellaswag_val.jsonl`: ctx_a, ctx_b, activity_label, endings, label.

    Raises:
        DataError: a line lacks one of these.
    """
    items = []
    for number, (where, row) in enumerate(read_rows(path)):
        second = str(row.get("ctx_b") or "").capitalize()
        context = f"{need(row, 'ctx_a', where)} {second}".strip() if "ctx_a" in row else str(need(row, "ctx", where))
        endings, label = need(row, "endings", where), str(need(row, "label", where))
        if not isinstance(endings, list) or not label.isdigit() or int(label) >= len(endings):
            raise DataError("the label is no number of an ending", where=where, fix="use the validation file")
        choices = tuple(_plain(str(ending)) for ending in endings)
        if len(set(choices)) < len(choices):
            choices = tuple(map(str, endings))
        text = _plain(f"{row.get('activity_label', '')}: {context}")
        items.append(
            Item(
                str(row.get("ind", number)),
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
