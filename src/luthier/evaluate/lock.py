"""The lock of an evaluation: what was asked and how it was scored, as hashes. Two with the same lock can be paired.

An item's hash holds its prompt, its expected answer and its tests; a suite's its items, its decoding and its scorer;
the whole adds the chat template and the code that scores. A verdict names the lock it was reached on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from luthier.artifact import digest, file_digest
from luthier.errors import DataError
from luthier.evaluate.items import Task

VERSION = 1
Lock = dict[str, Any]


def lock_of(tasks: Sequence[Task], template: str) -> Lock:
    """The lock of these tasks, asked through this chat template."""
    suites = {task.name: _suite(task) for task in tasks}
    body = {"version": VERSION, "template": digest(template), "code": code_digest(), "suites": suites}
    return {**body, "sha256": digest(body)}


def _suite(task: Task) -> dict[str, Any]:
    items = {item.id: item.identity()[:16] for item in task.items}
    body = {
        "role": task.role,
        "kind": task.kind,
        "scoring": task.scoring,
        "decoding": asdict(task.decoding),
        "items": items,
        "reserve": len(task.reserve),
    }
    return {**body, "sha256": digest(body)}


@cache
def code_digest() -> str:
    """The hash of this package's source: another scorer is another measure."""
    folder = Path(__file__).parent
    return digest({p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*.py"))})


def same_suites(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The suites that both evaluations asked alike; only these can be paired."""
    suites = after["suites"]
    return [n for n, suite in before["suites"].items() if n in suites and suites[n]["sha256"] == suite["sha256"]]


def require_same(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise unless both evaluations asked the same.

    Raises:
        DataError: with the suites that differ.
    """
    same = set(same_suites(before, after))
    differing = sorted((before["suites"].keys() | after["suites"].keys()) - same)
    if differing:
        raise DataError(
            f"the two evaluations did not ask the same: {', '.join(differing)}",
            where="suites",
            fix="evaluate both models anew with the same recipe",
        )
