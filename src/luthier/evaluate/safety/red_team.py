"""External red-team tools, each a process of its own: it makes attacks, and may judge the answers to them.

The command is started twice, with one more word. Both times it reads JSON lines and writes JSON lines:

| word | reads | writes |
| --- | --- | --- |
| `attack` | {"id", "prompt"}, the unsafe prompts of a suite | {"id", "prompt"} and, if made from a prompt, its "seed" |
| `judge` | {"id", "prompt", "answer"} | {"id", "unsafe"}: true, false, or null for no judgement |

Attacks are made once and kept, so that every model is asked the same ones and results pair by id.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from luthier.artifact import digest, file_digest, write_text
from luthier.errors import DataError, Missing
from luthier.evaluate.items import Item, Task
from luthier.evaluate.safety.suites import UNSAFE_MARGIN, complies, safety_task
from luthier.evaluate.taskfile import check_ids
from luthier.types import Message, Score

WHERE = "evaluate.red_team"
TOLD = 200  # of what a tool says when it fails


@dataclass(frozen=True)
class Tool:
    """A red-team tool.

    Attributes:
        name: of the metric.
        command: the program and its arguments.
        install: the command that installs it, told where it is not there.
        timeout: seconds that one start may take.
        home: the folder it runs in.
        judges: whether it judges answers; else the detector of refusals does.
    """

    name: str
    command: tuple[str, ...]
    install: str = "install the tool, or remove evaluate.red_team"
    timeout: float = 600.0
    home: Path = Path()
    judges: bool = True

    @cached_property
    def identity(self) -> str:
        """A hash of the command and of the files it names: another tool is another measure."""
        files = {part: file_digest(self.home / part) for part in self.command if (self.home / part).is_file()}
        return digest([list(self.command), files])[:16]

    def run(self, word: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the tool writes to these lines.

        Raises:
            Missing: the tool is not there.
            DataError: it failed, took too long, or wrote something else than JSON objects with an id.
        """
        sent = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        where = f"{WHERE} {self.command[0]} {word}"
        pipe = subprocess.PIPE
        try:
            started = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
                [*self.command, word], stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.home, start_new_session=True
            )
        except OSError as error:
            told = f"the red-team tool '{self.command[0]}' cannot be started: {error.strerror}"
            raise Missing(told, where=WHERE, fix=self.install) from error
        try:
            out, told_bytes = started.communicate(sent, timeout=self.timeout)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)  # what it started holds the pipes, too
            started.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                what = f"no end after {self.timeout:g} s"
                raise DataError(what, where=where, fix=f"give a longer {WHERE}.timeout") from error
            raise
        if started.returncode:
            last = (told_bytes.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"])[-1][:TOLD]
            raise DataError(f"it ended with code {started.returncode}: {last}", where=where, fix="run it by hand")
        return [_object(line, f"{where}, line {n}") for n, line in enumerate(out.splitlines(), 1) if line.strip()]


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        fix = "a tool writes one JSON object a line to stdout, and everything else to stderr"
        raise DataError("not JSON", where=where, fix=fix) from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise DataError('no object with an "id" that is text', where=where, fix="see docs/evaluation.md")
    return row


def red_team_task(tool: Tool, suites: Sequence[Task], kept: Path) -> Task:
    """The attacks of a tool as a task.

    Args:
        tool: the tool.
        suites: safety suites, whose unsafe prompts attacks are made from.
        kept: a folder in which the attacks are kept for later models.

    Raises:
        Missing: the tool is not there.
        DataError: it failed, or made no attacks.
    """
    asked = [
        {"id": f"{task.name}#{item.id}", "prompt": item.asked[-1].content}
        for task in suites
        if task.score is complies
        for item in task.items
    ]
    file = kept / f"{digest([tool.identity, asked])[:16]}.jsonl"
    if not file.exists():
        made = tool.run("attack", asked)
        _check(made, tool)
        kept.mkdir(parents=True, exist_ok=True)
        write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    items = tuple(
        Item(
            r["id"], (Message("user", r["prompt"]),), "a refusal", str(r.get("kind", "")), family=str(r.get("seed", ""))
        )
        for r in rows
    )
    scoring = f"red-team {'judged by the tool' if tool.judges else 'unsafe_compliance'} {tool.identity}"
    task = safety_task(f"{tool.name}.unsafe_compliance", items, complies, UNSAFE_MARGIN, scoring)
    return replace(task, score_all=partial(score_all, tool=tool)) if tool.judges else task


def _check(made: Sequence[dict[str, Any]], tool: Tool) -> None:
    where = f"{WHERE} {tool.command[0]} attack"
    if not made:
        raise DataError("it made no attacks", where=where, fix="run it by hand")
    for number, row in enumerate(made, 1):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise DataError('no "prompt" here', where=f"{where}, line {number}", fix="see docs/evaluation.md")
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeError as error:
            raise DataError("half a character", where=f"{where}, line {number}", fix="mend the tool") from error
    check_ids([Item(row["id"]) for row in made], where)


def score_all(answers: Sequence[str], items: Sequence[Item], *, tool: Tool) -> list[Score]:
    """1 for each answer that the tool calls unsafe; one it does not judge is not scored; silence is not unsafe.

    Raises:
        Missing: the tool is not there.
        DataError: it failed, or judged something that was not asked.
    """
    # An attack may be drawn several times: its place makes the id.
    written = {f"{item.id}#{at}": at for at, item in enumerate(items) if answers[at].strip()}
    rows = [{"id": k, "prompt": items[at].asked[-1].content, "answer": answers[at]} for k, at in written.items()]
    found: dict[str, bool | None] = {}
    where = f"{WHERE} {tool.command[0]} judge"
    for row in tool.run("judge", rows) if rows else ():
        unsafe = row.get("unsafe", "")
        if row["id"] not in written or row["id"] in found or not (unsafe is None or isinstance(unsafe, bool)):
            what = f"no judgement, or not one of what was asked: id '{row['id'][:TOLD]}'"
            raise DataError(what, where=where, fix='each id once, with "unsafe" true, false or null')
        found[row["id"]] = unsafe
    if written and all(unsafe is None for unsafe in found.values()):
        what = f"it judged none of {len(written)} answers"
        raise DataError(what, where=where, fix=f"run it by hand, or set {WHERE}.judges=false")
    scores = [Score(0.0, "empty") for _ in answers]
    for key, at in written.items():
        verdict = found.get(key)
        scores[at] = Score(float(verdict is True), "failed" if verdict is None else "scored")
    return scores
