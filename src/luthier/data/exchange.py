"""Rows to review, in the record formats of Label Studio and Argilla, and the verdicts that come back in them.

Label Studio: a list of tasks with `data` and `annotations`; the labelling config is in `LABEL_STUDIO`. Argilla 2: a
list of records with `fields`, `metadata` and `responses`, as `Dataset.records.to_json` writes them.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.artifact import write_text
from luthier.data.ledger import Entry
from luthier.data.verdicts import Drawn, Verdict, verdict_from
from luthier.errors import DataError
from luthier.types import Json

Row = tuple[Entry, Drawn, Json]
"""An entry of the ledger, why it was drawn, and the row's content as `<side>.jsonl` has it."""

LABEL_STUDIO = """<View>
  <Paragraphs name="row" value="$turns" layout="dialogue" nameKey="role" textKey="content"/>
  <Choices name="decision" toName="row" choice="single" required="true">
    <Choice value="accept"/><Choice value="edit"/><Choice value="reject"/>
  </Choices>
  <TextArea name="edited" toName="row" placeholder="the answer as it should be"/>
  <TextArea name="note" toName="row" placeholder="why"/>
</View>
"""


def turns_of(content: Json) -> list[Json]:
    """A row as turns, for people to read; of a pair both answers, each named for what it is."""
    if "text" in content:
        return [{"role": "text", "content": content["text"]}]
    found = [*content.get("messages", ()), *content.get("prompt", ())]
    found += [{**turn, "role": side} for side in ("chosen", "rejected") for turn in content.get(side, ())]
    return [{"role": turn["role"], "content": turn["content"]} for turn in found]


def to_label_studio(rows: Iterable[Row], verdicts: Mapping[str, Verdict]) -> list[Json]:
    """One task a row; with an annotation where there is a verdict."""
    tasks = []
    for number, (entry, drawn, content) in enumerate(rows, 1):
        known = {"turns": turns_of(content), "content": entry.content, "where": entry.where, "drawn": drawn}
        task: Json = {"id": number, "data": known, "annotations": []}
        if verdict := verdicts.get(entry.content):
            result = [_choice(verdict.decision)]
            result += [_text(name, getattr(verdict, name)) for name in ("edited", "note") if getattr(verdict, name)]
            task["annotations"] = [{"result": result, "completed_by": verdict.who}]
        tasks.append(task)
    return tasks


def _choice(value: str) -> Json:
    return {"from_name": "decision", "to_name": "row", "type": "choices", "value": {"choices": [value]}}


def _text(name: str, value: str) -> Json:
    return {"from_name": name, "to_name": "row", "type": "textarea", "value": {"text": [value]}}


def from_label_studio(tasks: Sequence[Json]) -> list[Verdict]:
    """The last annotation of each task that has one; cancelled ones do not count."""
    found = []
    for task in tasks:
        done = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
        if not done:
            continue
        said: dict[str, str] = {}
        for part in done[-1]["result"]:
            value = part["value"]
            said[part["from_name"]] = "\n".join(value.get("choices") or value.get("text") or ())
        who = done[-1].get("completed_by", "")
        found.append(_verdict(task["data"], said, who.get("email", "") if isinstance(who, dict) else str(who)))
    return found


def to_argilla(rows: Iterable[Row], verdicts: Mapping[str, Verdict]) -> list[Json]:
    """One record a row, with responses where there is a verdict."""
    records = []
    for entry, drawn, content in rows:
        record: Json = {
            "id": entry.content,
            "fields": {"chat": turns_of(content)},
            "metadata": {"where": entry.where, "drawn": drawn, "content": entry.content},
            "suggestions": {},
            "responses": {},
        }
        if verdict := verdicts.get(entry.content):
            for name in ("decision", "edited", "note"):
                if value := getattr(verdict, name):
                    record["responses"][name] = [{"value": value, "user_id": verdict.who or None}]
        records.append(record)
    return records


def from_argilla(records: Sequence[Json]) -> list[Verdict]:
    """The last response of each record that has one."""
    found = []
    for record in records:
        responses = record.get("responses") or {}
        if responses.get("decision"):
            said = {name: str(given[-1]["value"]) for name, given in responses.items() if given}
            who = responses["decision"][-1].get("user_id") or ""
            found.append(_verdict(record["metadata"], said, str(who)))
    return found


def _verdict(data: Json, said: Mapping[str, str], who: str) -> Verdict:
    known = {"content": data["content"], "where": data.get("where", ""), "drawn": data.get("drawn", "asked")}
    edited = said.get("edited") if said["decision"] == "edit" else None
    given = {"decision": said["decision"], "edited": edited, "note": said.get("note", ""), "who": who}
    return verdict_from({**known, **given})


WRITERS: dict[str, Callable[[Iterable[Row], Mapping[str, Verdict]], list[Json]]] = {
    "label-studio": to_label_studio,
    "argilla": to_argilla,
}
READERS: dict[str, Callable[[Sequence[Json]], list[Verdict]]] = {
    "label-studio": from_label_studio,
    "argilla": from_argilla,
}


def write_rows(path: Path, kind: str, rows: Iterable[Row], verdicts: Mapping[str, Verdict]) -> int:
    """Write rows for another tool to review; how many they were."""
    made = WRITERS[kind](rows, verdicts)
    write_text(path, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return len(made)


def read_reviews(path: Path) -> list[Verdict]:
    """The verdicts in a file of either tool, which is told by its keys.

    Raises:
        DataError: it is no file of theirs.
    """
    try:
        body: Any = json.loads(path.read_text(encoding="utf-8"))
        kind = "argilla" if body and "fields" in body[0] else "label-studio"
        return READERS[kind](body)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"no export of Label Studio or Argilla with verdicts: {error!r}",
            where=str(path),
            fix="export the reviewed rows as JSON there, with the questions decision, edited and note",
        ) from error
