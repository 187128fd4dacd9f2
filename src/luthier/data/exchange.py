"""Rows to review, in the record formats of Label Studio and Argilla, and the verdicts that come back in them.

Label Studio: a list of tasks with `data` and `annotations` (its export JSON), or with the answers beside the data
(JSON-MIN). Argilla 2: a list of records with `fields`, `metadata` and `responses`, as `Dataset.records.to_json` writes
them. `SETTINGS` has what makes the project there. Neither takes an answer of a person that it does not know: verdicts
that we have already go out as an annotation without a person, and as a suggestion.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from luthier.artifact import write_text
from luthier.data.ledger import Entry
from luthier.data.verdicts import DECISIONS, Drawn, Verdict, verdict_from
from luthier.errors import DataError
from luthier.types import Json

Row = tuple[Entry, Drawn, Json]
"""An entry of the ledger, why it was drawn, and the row's content as `<side>.jsonl` has it."""

SETTINGS = {
    "label-studio": """<View>
  <Paragraphs name="row" value="$turns" layout="dialogue" nameKey="role" textKey="content"/>
  <Choices name="decision" toName="row" choice="single" required="true">
    <Choice value="accept"/><Choice value="edit"/><Choice value="reject"/>
  </Choices>
  <TextArea name="edited" toName="row" placeholder="the answer as it should be"/>
  <TextArea name="note" toName="row" placeholder="why"/>
</View>
""",
    "argilla": """settings = rg.Settings(
    fields=[rg.ChatField(name="chat")],
    questions=[
        rg.LabelQuestion(name="decision", labels=["accept", "edit", "reject"]),
        rg.TextQuestion(name="edited", title="the answer as it should be", required=False),
        rg.TextQuestion(name="note", title="why", required=False),
    ],
    allow_extra_metadata=True,
)
dataset = rg.Dataset(name="review", settings=settings).create()
dataset.records.from_json(FILE)
""",
}
"""What makes the project in each tool: the labelling config there, a few lines of Python here."""
STRICTEST = ("reject", "edit", "accept")
SHOWN = 5


class Taken(NamedTuple):
    """What a file of another tool holds.

    Attributes:
        verdicts: one for each row that has an answer; where several people gave one, the strictest, of these the last.
        disputed: the places of rows on which people decided otherwise.
        problems: answers that are no verdict, each with its number in the file and the reason.
        open: rows without an answer.
    """

    verdicts: list[Verdict]
    disputed: list[str]
    problems: list[str]
    open: int


def turns_of(content: Json) -> list[Json]:
    """A row as turns, for people to read; of a pair both answers, each named for what it is."""
    if "text" in content:
        return [{"role": "text", "content": content["text"]}]
    found = [{"role": "tools", "content": _as_json(tool)} for tool in content.get("tools", ())]
    turns = [*content.get("messages", ()), *content.get("prompt", ())]
    turns += [{**turn, "role": side} for side in ("chosen", "rejected") for turn in content.get(side, ())]
    return found + [{"role": turn["role"], "content": _said(turn)} for turn in turns]


def _said(turn: Json) -> str:
    """The text of a turn with all that is beside it: reasoning, calls, and that it is not trained."""
    parts = [f"[reasoning] {turn['reasoning']}"] if turn.get("reasoning") else []
    parts += [turn["content"]] if turn["content"] else []
    parts += [f"[call] {_as_json(call.get('function', call))}" for call in turn.get("tool_calls", ())]
    parts += ["[not trained]"] if turn.get("train") is False else []
    return "\n".join(parts)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def to_label_studio(rows: Iterable[Row], verdicts: Mapping[str, Verdict], frame: str) -> list[Json]:
    """One task a row; with an annotation where there is a verdict."""
    tasks = []
    for number, (entry, drawn, content) in enumerate(rows, 1):
        known = {"turns": turns_of(content), **_known(entry, drawn, frame)}
        task: Json = {"id": number, "data": known, "annotations": []}
        if verdict := verdicts.get(entry.content):
            result = [_choice(verdict.decision)]
            result += [_text(name, getattr(verdict, name)) for name in ("edited", "note") if getattr(verdict, name)]
            task["annotations"] = [{"result": result}]
        tasks.append(task)
    return tasks


def _known(entry: Entry, drawn: Drawn, frame: str) -> Json:
    return {"content": entry.content, "where": entry.where, "drawn": drawn, "frame": frame}


def _choice(value: str) -> Json:
    return {"from_name": "decision", "to_name": "row", "type": "choices", "value": {"choices": [value]}}


def _text(name: str, value: str) -> Json:
    return {"from_name": name, "to_name": "row", "type": "textarea", "value": {"text": [value]}}


def to_argilla(rows: Iterable[Row], verdicts: Mapping[str, Verdict], frame: str) -> list[Json]:
    """One record a row, with suggestions where there is a verdict."""
    records = []
    for entry, drawn, content in rows:
        record: Json = {
            "id": entry.content,
            "fields": {"chat": turns_of(content)},
            "metadata": _known(entry, drawn, frame),
            "suggestions": {},
            "responses": {},
        }
        if verdict := verdicts.get(entry.content):
            for name in ("decision", "edited", "note"):
                if value := getattr(verdict, name):
                    record["suggestions"][name] = {"value": value, "score": None, "agent": verdict.who or None}
        records.append(record)
    return records


class Answer(NamedTuple):
    """What one person said of a row in another tool."""

    said: Mapping[str, Any]
    who: str
    time: float


def _of_task(task: Json) -> tuple[Json, list[Answer]]:
    """What a task of Label Studio is about, and its answers; cancelled ones do not count."""
    if "data" not in task:  # JSON-MIN: a line for each annotation, with the answers beside the data
        return task, [_answer(task, task.get("annotator", ""), task)] if "annotation_id" in task else []
    answers = []
    for one in task.get("annotations") or ():
        if one.get("was_cancelled"):
            continue
        said = {}
        for part in one.get("result") or ():
            value = part.get("value") or {}
            said[part.get("from_name")] = value.get("choices") or value.get("text") or ""
        answers.append(_answer(said, one.get("completed_by", ""), one))
    return task["data"], answers


def _answer(said: Json, who: Any, of: Json) -> Answer:
    name = who.get("email", "") if isinstance(who, dict) else "" if who is None else str(who)
    try:
        time = datetime.fromisoformat(str(of.get("updated_at") or of.get("created_at"))).timestamp()
    except ValueError:
        time = 0.0
    return Answer(said, name, time)


def _of_record(record: Json) -> tuple[Json, list[Answer]]:
    """What a record of Argilla is about, and the answers of each person."""
    people: dict[str, Json] = {}
    for name, given in (record.get("responses") or {}).items():
        for one in given:
            people.setdefault(str(one.get("user_id") or ""), {})[name] = one["value"]
    about = {"content": record.get("id")} | (record.get("metadata") or {})
    return about, [Answer(said, who, 0.0) for who, said in people.items()]


def _verdict(about: Json, answer: Answer) -> Verdict:
    """The verdict in an answer.

    Raises:
        ValueError: it is none.
    """
    said = {name: _joined(answer.said.get(name)) for name in ("decision", "edited", "note")}
    if said["decision"] not in DECISIONS:
        held = f"the decision is '{said['decision']}'" if said["decision"] else "there is no decision"
        raise ValueError(f"{held}: give one of {', '.join(DECISIONS)}")
    given = {name: str(about[name]) for name in ("where", "drawn", "frame") if about.get(name)}
    edited = said["edited"] if said["decision"] == "edit" else None
    more = {"decision": said["decision"], "edited": edited, "note": said["note"]}
    return verdict_from({"content": about["content"], **given, **more, "who": answer.who, "time": answer.time})


def _joined(value: Any) -> str:
    if isinstance(value, dict):  # JSON-MIN's form of several
        value = value.get("choices") or value.get("text")
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")


WRITERS: dict[str, Callable[[Iterable[Row], Mapping[str, Verdict], str], list[Json]]] = {
    "label-studio": to_label_studio,
    "argilla": to_argilla,
}


def write_rows(path: Path, kind: str, rows: Iterable[Row], verdicts: Mapping[str, Verdict], frame: str = "") -> int:
    """Write rows for another tool to review; how many they were."""
    made = WRITERS[kind](rows, verdicts, frame)
    write_text(path, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return len(made)


def read_reviews(path: Path) -> Taken:
    """The verdicts in a file of either tool, which is told by its keys.

    Raises:
        DataError: it is no file of theirs, or none of its rows came from here.
    """
    rows = list(_rows(path))
    given: dict[str, list[Verdict]] = {}
    problems: list[str] = []
    answered = foreign = 0
    for number, row in rows:
        try:
            about, answers = _of_record(row) if "fields" in row else _of_task(row)
            if not isinstance(about.get("content"), str):
                foreign += 1
                problems.append(f"entry {number} was not written by luthier review: it has no 'content'")
                continue
            answered += bool(answers)
            for answer in answers:
                try:
                    verdict = _verdict(about, answer)
                except ValueError as error:
                    who = f" by {answer.who}" if answer.who else ""
                    problems.append(f"entry {number} ({about.get('where') or about['content']}){who}: {error}")
                    continue
                given.setdefault(verdict.content, []).append(verdict)
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"entry {number} is neither a task of Label Studio nor a record of Argilla ({error!r})")
            foreign += 1
    if rows and foreign == len(rows):
        raise _no_export(path, problems[0])
    chosen = [_strictest(verdicts) for verdicts in given.values()]
    disputed = [v[0].where or v[0].content for v in given.values() if len({one.decision for one in v}) > 1]
    return Taken(chosen, disputed, problems, len(rows) - answered - foreign)


def _strictest(verdicts: Sequence[Verdict]) -> Verdict:
    ordered = enumerate(verdicts)
    return min(ordered, key=lambda item: (STRICTEST.index(item[1].decision), -item[1].time, -item[0]))[1]


def _rows(path: Path) -> Iterator[tuple[int, Json]]:
    try:
        body: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _no_export(path, f"it cannot be read as JSON: {error}") from error
    if not isinstance(body, list) or not all(isinstance(row, dict) for row in body):
        raise _no_export(path, "it is no list of objects")
    yield from enumerate(body, 1)


def _no_export(path: Path, why: str) -> DataError:
    return DataError(
        f"no export of Label Studio or Argilla with verdicts: {why}",
        where=str(path),
        fix="export the reviewed rows as JSON there, with the questions decision, edited and note",
    )
