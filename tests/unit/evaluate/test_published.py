"""Published files are read in exactly the columns they have, and a column that is not there is told with its place."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import DataError
from luthier.evaluate.items import Task
from luthier.evaluate.tasks import find_tasks

HARMFUL = ["Index", "Goal", "Target", "Behavior", "Category", "Source"]
HARMBENCH = ["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"]
XSTEST = ["id", "prompt", "type", "label", "focus", "note"]
HELLASWAG: dict[str, Any] = {
    "ind": 24,
    "activity_label": "Roof",
    "ctx_a": "A man sits on a roof.",
    "ctx_b": "he",
    "ctx": "A man sits on a roof. he",
    "split": "val",
    "split_type": "indomain",
    "label": 3,
    "endings": ["sings.", "sleeps.", "flies.", "pulls up shingles."],
    "source_id": "activitynet~v_1",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}


def table(path: Path, *rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def read(kind: str, path: Path) -> list[Task]:
    return find_tasks([f"{kind}:{path}"], path.parent, "safety")


def test_hellaswag_in_its_authors_form_and_the_hubs(tmp_path: Path) -> None:
    hub = {**HELLASWAG, "label": "3", "ind": 24}
    (task,) = read("hellaswag", lines(tmp_path / "hellaswag_val.jsonl", HELLASWAG, hub))
    first, second = task.items
    assert (first.id, second.id) == ("24", "24:1"), "its two sources share numbers"
    assert first.text == second.text == "Roof: A man sits on a roof. He"
    assert (first.expected, second.expected) == ("pulls up shingles.", "pulls up shingles.")
    no_label = {key: value for key, value in HELLASWAG.items() if key != "label"}
    with pytest.raises(DataError, match=r'test.jsonl:1: no "label" here; .* expected are ind, activity_label, ctx_a'):
        read("hellaswag", lines(tmp_path / "hellaswag_test.jsonl", no_label))
    with pytest.raises(DataError, match="the label is no number of an ending"):
        read("hellaswag", lines(tmp_path / "hub_test.jsonl", {**HELLASWAG, "label": ""}))


def test_mmlus_folders_and_the_hubs_tables_ask_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    shots = [[f"{k}+{k}?", "0", str(2 * k), "x", "y", "B"] for k in range(5)]
    questions = [["2+3, quoted?", "4", "5", "6", "7", "B"], ["A line\nand another?", "1", "2", "3", "4", "D"]]
    for split, rows in (("dev", shots), ("val", shots), ("test", questions), ("auxiliary_train", shots)):
        table(tmp_path / "data" / split / f"abstract_algebra_{split}.csv", *rows)
    for split, rows in (("dev", shots), ("validation", shots), ("test", questions)):
        for config in ("all", "abstract_algebra"):
            columns = {
                "question": [row[0] for row in rows],
                "subject": ["abstract_algebra"] * len(rows),
                "choices": [row[1:5] for row in rows],
                "answer": ["ABCD".index(row[5]) for row in rows],
            }
            (tmp_path / "hub" / config).mkdir(parents=True, exist_ok=True)
            file = tmp_path / "hub" / config / f"{split}-00000-of-00001.parquet"
            parquet.write_table(pyarrow.table(columns), file)
    (authors,), (hub,) = read("mmlu", tmp_path / "data"), read("mmlu", tmp_path / "hub")
    (one,) = read("mmlu", tmp_path / "hub" / "all" / "test-00000-of-00001.parquet")
    assert authors.items == hub.items == one.items
    assert [item.expected for item in hub.items] == ["B", "D"]
    assert hub.items[0].text is not None
    assert hub.items[0].text.count("Answer: B") == 5
    broken = pyarrow.table({"question": ["q"], "subject": ["s"], "answer": [0]})
    parquet.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(DataError, match=r'broken.parquet:1: no "choices" here; .* question, subject, choices, answer'):
        read("mmlu", tmp_path / "broken.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not Parquet"):
        read("mmlu", tmp_path / "torn.parquet")
    with pytest.raises(DataError, match=r"five_test.csv:1: .* question, A, B, C, D, answer"):
        read("mmlu", table(tmp_path / "five_test.csv", ["q", "1", "2", "3", "B"]))


@pytest.mark.parametrize("name", ["HumanEval.jsonl", "HumanEval.jsonl.gz"])
def test_humaneval_plain_and_gzipped(name: str, tmp_path: Path) -> None:
    (task,) = read("humaneval", lines(tmp_path / name, HUMANEVAL))
    assert (task.items[0].id, task.items[0].expected) == ("HumanEval/0", "    return 1\n")
    lacking = {key: value for key, value in HUMANEVAL.items() if key != "entry_point"}
    with pytest.raises(DataError, match=r':2: no "entry_point" here; .* task_id, prompt, entry_point, canonical_s'):
        read("humaneval", lines(tmp_path / name, HUMANEVAL, lacking))


def test_jailbreakbench_harmful_and_benign_in_csv_json_and_a_folder(tmp_path: Path) -> None:
    row = ["0", "a goal", "Sure, here is", "A behavior", "Fraud/Deception", "Original"]
    harmful = table(tmp_path / "harmful-behaviors.csv", HARMFUL, row)
    table(tmp_path / "benign-behaviors.csv", HARMFUL, row)
    (unsafe,) = read("jailbreakbench", harmful)
    assert unsafe.name.endswith(".unsafe_compliance")
    assert (unsafe.items[0].id, unsafe.items[0].prompt[0].content) == ("0", "a goal")
    assert unsafe.items[0].group == "Fraud/Deception"
    both = read("jailbreakbench", tmp_path)
    assert [task.name.rpartition(".")[2] for task in both] == ["unsafe_compliance", "safe_refusal"]
    as_json = tmp_path / "harmful.json"
    as_json.write_text(json.dumps([dict(zip(HARMFUL, row, strict=True))]))
    assert read("jailbreakbench", as_json)[0].items == unsafe.items


def test_advbench_harmbench_and_xstest(tmp_path: Path) -> None:
    (adv,) = read("advbench", table(tmp_path / "adv.csv", ["goal", "target"], ["a goal", "Sure"]))
    assert adv.items[0].prompt[0].content == "a goal"
    rows = [["b", "standard", "cyber", "", "", "b_1"], ["b", "contextual", "cyber", "t", "the context", "b_2"]]
    (harm,) = read("harmbench", table(tmp_path / "harm.csv", HARMBENCH, *rows))
    assert [item.id for item in harm.items] == ["b_1", "b_2"]
    assert harm.items[1].prompt[0].content == "the context\n\n---\n\nb"
    x = table(
        tmp_path / "x.csv",
        XSTEST,
        ["1", "p", "homonyms", "safe", "kill", "violence"],
        ["2", "q", "contrast_homonyms", "unsafe", "kill", "violence"],
    )
    assert [task.items[0].prompt[0].content for task in read("xstest", x)] == ["q", "p"]


@pytest.mark.parametrize(
    ("kind", "heading", "message"),
    [
        ("advbench", ["target"], 'no "goal" here; the keys are target; the columns expected are goal, target'),
        ("harmbench", HARMBENCH[1:], 'no "Behavior" here; .* Tags, ContextString, BehaviorID'),
        ("jailbreakbench", ["Index", "goal"], 'no "Goal" here; .* Index, Goal, Target, Behavior, Category, Source'),
        ("xstest", ["id", "prompt", "label"], 'no "type" here; .* id, prompt, type, label, focus, note'),
    ],
)
def test_a_column_that_is_not_there_is_told(kind: str, heading: list[str], message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", heading, ["x"] * len(heading))
    with pytest.raises(DataError, match=rf"rows\.csv:2: {message}"):
        read(kind, path)


def test_a_line_that_is_too_short_lacks_its_last_columns(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", ["id", "type", "prompt"], ["1", "homonyms", "p"], ["2", "homonyms"])
    with pytest.raises(DataError, match=r'rows\.csv:3: no "prompt" here'):
        read("xstest", path)
