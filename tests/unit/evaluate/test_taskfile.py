"""A task of the user's own: read from YAML, asked as it says, refused with the key that is wrong."""

import json
from pathlib import Path

import pytest

from luthier.errors import DataError, RecipeError
from luthier.evaluate.marking import mark, summarise
from luthier.evaluate.taskfile import read_task
from luthier.evaluate.tasks import find_tasks, own_tasks
from luthier.types import Message

ROWS = [{"country": "France", "capital": "Paris", "area": "Europe"}, {"country": "Peru", "capital": "Lima"}]


def write(folder: Path, text: str, rows: list[dict[str, object]] | None = None) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows or []))
    path = folder / "task.yaml"
    path.write_text(text)
    return path


def test_a_task_asks_and_scores_as_it_says(tmp_path: Path) -> None:
    text = """
name: capitals
rows: rows.jsonl
system: Be brief.
prompt: "What is the capital of {country}? {answer in one word}"
expected: "{capital}"
scorer: {name: f1}
decoding: {max_new_tokens: 9, stop: ["\\n"]}
"""
    task = read_task(write(tmp_path, text, ROWS))
    assert task.items[0].prompt == (
        Message("system", "Be brief."),
        Message("user", "What is the capital of France? {answer in one word}"),
    )
    assert (task.decoding.max_new_tokens, task.decoding.stop) == (9, ("\n",))
    said = [[{"text": "It is Paris", "stopped": True, "tokens": 3}], [{"text": "Lima", "stopped": True, "tokens": 1}]]
    answers = mark(task, task.items, said)
    assert [a.score for a in answers] == [0.5, 1.0]
    assert {m.name: m.value for m in summarise(task, answers)} == {"capitals": 0.75, "capitals.em": 0.5}


def test_a_choice_is_named_by_its_text_or_its_number(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "2+2", "choices": ["3", "4"], "answer": 1},
        {"prompt": "sky", "choices": ["red", "blue"], "answer": "blue"},
    ]
    task = read_task(write(tmp_path, "name: mc\nrows: rows.jsonl\nkind: choose\nplain: true\n", rows))
    assert [item.expected for item in task.items] == ["4", "blue"]
    assert [item.text for item in task.items] == ["2+2", "sky"]
    answers = mark(task, task.items, [[{"logprobs": [-3.0, -1.0]}], [{"logprobs": [-1.0, -2.0]}]])
    assert [a.score for a in answers] == [1.0, 0.0]
    assert answers[1].answer == "red"


@pytest.mark.parametrize(
    ("text", "row", "error", "message"),
    [
        ("name: x\nrows: rows.jsonl\nprompts: hi", {}, RecipeError, "prompts: Extra inputs"),
        ("name: x\nrows: [", {}, RecipeError, "not YAML"),
        ("name: x\nrows: none.jsonl", {}, DataError, "none.jsonl"),
        ("name: x\nrows: rows.jsonl", {"prompt": "p"}, DataError, "no 'answer' in this row; its keys are prompt"),
        ("name: x\nrows: rows.jsonl\nscorer: {name: f2}", {}, RecipeError, "no scorer 'f2'"),
        ("name: x\nrows: rows.jsonl\npass_at: [5]", {}, RecipeError, "decoding.samples=5"),
        (
            "name: x\nrows: rows.jsonl\nkind: choose",
            {"prompt": "p", "answer": 2, "choices": ["a", "b"]},
            DataError,
            "the expected '2' is none of the choices",
        ),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, text: str, row: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="(?s)" + message.replace("[", r"\[")):
        read_task(write(tmp_path, text, [row]))


def test_two_items_with_one_id_cannot_be_paired(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": 1, "prompt": "a", "answer": "b"}, {"id": 1, "prompt": "c", "answer": "d"}]
    with pytest.raises(DataError, match="two items have the id '1'"):
        read_task(write(tmp_path, "name: x\nrows: rows.jsonl", rows))


def test_tasks_are_scorers_files_and_suites(tmp_path: Path) -> None:
    write(tmp_path, "name: own\nrows: [{prompt: a, answer: b}]")
    (tmp_path / "more.jsonl").write_text('{"prompt": "a", "answer": 7, "skill": "s"}\n')
    found = own_tasks(["task.yaml", "more.jsonl"], [], tmp_path, 10)
    assert [task.name for task in found] == ["own", "more.jsonl"]
    assert found[1].items[0].expected == "7"
    (skills,) = find_tasks(["ukulele-skills"], tmp_path, "retention")
    assert (len(skills.items), skills.role) == (954, "retention")
    with pytest.raises(RecipeError, match="no suite and no file 'mmlu'; suites: ukulele-skills"):
        find_tasks(["mmlu"], tmp_path, "retention")
    with pytest.raises(RecipeError, match="no scorer 'exact'"):
        own_tasks(["exact"], [], tmp_path, 10)
