"""Rows to Label Studio and Argilla, and their verdicts back, in the form in which the tools write them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.data.exchange import WRITERS, read_reviews, turns_of, write_rows
from luthier.data.review import draw_sample, reviewable
from luthier.data.verdicts import Verdict
from luthier.errors import DataError
from luthier.pipeline.review import with_content
from luthier.types import Json

Asked = Callable[[int], list[dict[str, str]]]
ANN, BOB = "6e1d6b5c-0d3f-4f7e-9a43-1f0b2f6f0a01", "7f2e7c6d-1e40-4a8f-8b54-2a1c3a7a1b02"


def choice(value: str) -> Json:
    return {
        "id": "aB3", "type": "choices", "value": {"choices": [value]}, "origin": "manual", "to_name": "row",
        "from_name": "decision",
    }  # fmt: skip


def text(name: str, *lines: str) -> Json:
    return {
        "id": "cD4", "type": "textarea", "value": {"text": list(lines)}, "origin": "manual", "to_name": "row",
        "from_name": name,
    }  # fmt: skip


def annotated(task: Json, *annotations: Json) -> Json:
    """A task as Label Studio exports it."""
    whole = {
        "ground_truth": False, "draft_created_at": None, "lead_time": 4.2, "prediction": {}, "result_count": 0,
        "unique_id": "u", "import_id": None, "last_action": None, "bulk_created": False, "project": 7,
        "was_cancelled": False, "created_at": "2026-11-24T10:00:00.000000Z",
        "updated_at": "2026-11-24T10:00:00.000000Z",
    }  # fmt: skip
    around = {"file_upload": "rows.json", "drafts": [], "predictions": [], "meta": {}, "inner_id": 1, "project": 7}
    return task | around | {"annotations": [whole | one for one in annotations]}


@pytest.fixture
def tasks(bench: Any, asked: Asked, tmp_path: Path) -> list[Json]:
    pair = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    bench.curate(*asked(10), {"text": "plain"}, pair, curate={"near_duplicates": None})
    rows = with_content(bench.out, draw_sample(reviewable(bench.out), 12))
    assert write_rows(tmp_path / "rows.json", "label-studio", rows, {}, "frame") == 12
    made: list[Json] = json.loads((tmp_path / "rows.json").read_text())
    return made


def back(folder: Path, body: Any) -> Any:
    path = folder / "back.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body), encoding="utf-8")
    return read_reviews(path)


def test_what_label_studio_exports_is_read(tasks: list[Json], tmp_path: Path) -> None:
    rows = [
        annotated(tasks[0], {"id": 1, "completed_by": 3, "result": [choice("accept")]}),
        annotated(tasks[1], {"id": 2, "completed_by": {"id": 3, "email": "ann@x.org", "first_name": "Ann"},
                             "result": [choice("edit"), text("edited", "better,", "twice"), text("note", "why")]}),
        annotated(tasks[2], {"id": 3, "completed_by": 3, "result": [choice("reject")], "was_cancelled": True}),
        annotated(tasks[3]),
    ]  # fmt: skip
    taken = back(tmp_path, rows)
    first, second = taken.verdicts
    held = tasks[0]["data"]
    assert (first.decision, first.who, first.content, first.frame) == ("accept", "3", held["content"], "frame")
    assert (first.where, first.drawn) == (held["where"], "random")
    assert first.time == 1795514400
    assert (second.edited, second.note, second.who) == ("better,\ntwice", "why", "ann@x.org")
    assert (taken.open, taken.problems, taken.disputed) == (2, [], [])


def test_the_small_form_of_label_studio_is_read(tasks: list[Json], tmp_path: Path) -> None:
    small = {**tasks[0]["data"], "id": 1, "annotator": 3, "annotation_id": 9, "updated_at": "2026-11-24T10:00:00Z"}
    rows = [small | {"decision": "accept"}, {**tasks[1]["data"], **small, **tasks[1]["data"]}]
    rows[1] |= {"decision": "edit", "edited": ["one", "two"], "note": {"text": ["x", "y"]}}
    taken = back(tmp_path, rows)
    assert [(v.decision, v.edited, v.note, v.who) for v in taken.verdicts] == [
        ("accept", None, "", "3"), ("edit", "one\ntwo", "x\ny", "3")
    ]  # fmt: skip


def test_of_several_annotators_the_strictest_counts(tasks: list[Json], tmp_path: Path) -> None:
    later = {"updated_at": "2026-11-24T11:00:00Z"}
    rows = [
        annotated(tasks[0], {"completed_by": 1, "result": [choice("reject"), text("note", "no")]},
                  {"completed_by": 2, "result": [choice("accept")], **later}),
        annotated(tasks[1], {"completed_by": 1, "result": [choice("edit"), text("edited", "old")]},
                  {"completed_by": 2, "result": [choice("edit"), text("edited", "new")], **later}),
    ]  # fmt: skip
    taken = back(tmp_path, rows)
    assert [(v.decision, v.who, v.edited) for v in taken.verdicts] == [("reject", "1", None), ("edit", "2", "new")]
    assert taken.disputed == [tasks[0]["data"]["where"]]


def test_half_an_answer_is_left_out_and_named(tasks: list[Json], tmp_path: Path) -> None:
    rows = [
        annotated(tasks[0], {"completed_by": 1, "result": [choice("edit")]}),
        annotated(tasks[1], {"completed_by": 1, "result": [text("note", "hm")]}),
        annotated(tasks[2], {"completed_by": 1, "result": [choice("maybe")]}),
        annotated(tasks[3], {"completed_by": None, "result": [choice("accept")]}),
        {"id": 9, "data": {"image": "x.png"}, "annotations": [{"result": []}]},
        {"id": 10, "data": None},
    ]
    taken = back(tmp_path, rows)
    assert [v.content for v in taken.verdicts] == [tasks[3]["data"]["content"]]
    said = "\n".join(taken.problems)
    for place, why in ((1, "an edit needs the edited answer"), (2, "there is no decision"), (3, "decision is 'maybe'")):
        assert f"entry {place} ({tasks[place - 1]['data']['where']}) by 1: " in said
        assert why in said
    assert "entry 5 was not written by luthier review" in said
    assert "entry 6 is neither a task" in said


def test_what_argilla_writes_is_read_person_by_person(tasks: list[Json], tmp_path: Path) -> None:
    def record(task: Json, responses: Json, **more: Any) -> Json:
        metadata = {name: held for name, held in task["data"].items() if name != "turns"}
        around = {"suggestions": {}, "vectors": {}, "_server_id": "s", "status": "completed", "metadata": metadata}
        return {"id": task["data"]["content"], "fields": {"chat": []}, "responses": responses, **around, **more}

    def one(value: str, who: str) -> Json:
        return {"value": value, "user_id": who}

    edit = {"decision": [one("accept", ANN), one("edit", BOB)], "edited": [one("better", BOB)], "note": [one("n", ANN)]}
    taken = back(
        tmp_path,
        [
            record(tasks[0], edit),
            record(tasks[1], {"decision": [one("accept", ANN)]}, metadata={}),  # what the server does not keep
            record(tasks[2], {"note": [one("hm", ANN)]}),
            record(tasks[3], {}),
        ],
    )
    assert [(v.decision, v.edited, v.who, v.note) for v in taken.verdicts] == [
        ("edit", "better", BOB, ""), ("accept", None, ANN, "")
    ]  # fmt: skip
    assert taken.verdicts[1].content == tasks[1]["data"]["content"]
    assert len(taken.disputed) == len(taken.problems) == taken.open == 1


@pytest.mark.parametrize(
    "body", ["", "{", "[1]", '{"a": 1}', "null", '[{"data": {"content": 3}}]', '[{"text": "x"}]', "[" * 100_000]
)
def test_another_file_is_refused_as_one(tmp_path: Path, body: str) -> None:
    with pytest.raises(DataError, match="no export of Label Studio or Argilla"):
        back(tmp_path, body)


def test_an_empty_list_has_no_verdicts(tmp_path: Path) -> None:
    assert back(tmp_path, []).verdicts == []


@pytest.mark.parametrize("tool", [*WRITERS])
def test_neither_tool_is_given_a_person_that_it_does_not_know(
    bench: Any, asked: Asked, tmp_path: Path, tool: str
) -> None:
    """Label Studio refuses a file whose `completed_by` is no member, Argilla a user that is no UUID."""
    bench.curate(*asked(3), curate={"near_duplicates": None})
    rows = with_content(bench.out, draw_sample(reviewable(bench.out), 3))
    mark = rows[0][0].content
    write_rows(tmp_path / "rows.json", tool, rows, {mark: Verdict(mark, "edit", "random", "why", "better", who="ann")})
    first = json.loads((tmp_path / "rows.json").read_text())[0]
    if tool == "label-studio":
        assert "completed_by" not in first["annotations"][0]
        (verdict,) = read_reviews(tmp_path / "rows.json").verdicts
        assert (verdict.content, verdict.decision, verdict.edited, verdict.note) == (mark, "edit", "better", "why")
    else:
        assert first["responses"] == {}
        assert first["suggestions"]["decision"] == {"value": "edit", "score": None, "agent": "ann"}
        assert first["suggestions"]["edited"]["value"] == "better"


def test_a_reviewer_elsewhere_sees_calls_tools_and_what_is_not_trained() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    content = {
        "tools": [{"type": "function", "function": {"name": "weather"}}],
        "messages": [
            {"role": "user", "content": "How is it?"},
            {"role": "assistant", "content": "", "tool_calls": [call], "train": False},
            {"role": "tool", "content": "sun"},
            {"role": "assistant", "content": "Fine.", "reasoning": "Sun is fine."},
        ],
    }
    told = turns_of(content)
    assert told[0]["role"] == "tools"
    assert "weather" in told[0]["content"]
    assert all(word in told[2]["content"] for word in ("weather", "Rome", "[not trained]"))
    assert told[4]["content"] == "[reasoning] Sun is fine.\nFine."
    assert all(isinstance(turn["content"], str) and turn["content"] for turn in told)
