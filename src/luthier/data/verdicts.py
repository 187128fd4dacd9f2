"""What people said of rows: appended to one file, bound to the content that they saw.

A verdict holds for a row as long as the same stands in it after curation; a row that changes has to be seen again.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from luthier.artifact import digest, disk_error, make_folder
from luthier.errors import DataError
from luthier.types import Json

Decision = Literal["accept", "edit", "reject"]
Drawn = Literal["random", "risk", "asked"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person said of one row.

    Attributes:
        content: the hash of what was seen, as the ledger has it.
        decision: `edit` and `reject` mean that the row had a defect.
        drawn: why the row was looked at; only rows drawn at random count for the share of defects.
        note: why, in the person's words.
        edited: the last answer as it should have been, for `edit`.
        where: the place of the row when it was seen.
        who: the person's name, where it is known.
        time: seconds since 1970.
        frame: which rows it was drawn from.
    """

    content: str
    decision: Decision
    drawn: Drawn = "asked"
    note: str = ""
    edited: str | None = None
    where: str = ""
    who: str = ""
    time: float = 0.0
    frame: str = ""

    @property
    def said(self) -> tuple[str, str | None, str]:
        """What the person said, without who and when."""
        return self.decision, self.edited, self.note

    @property
    def defective(self) -> bool:
        """True when the row was not good as it was."""
        return self.decision != "accept"


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """The last verdict on each content, with the reason for which the row was drawn first.

    Raises:
        DataError: a line is no verdict.
    """
    found: dict[str, Verdict] = {}
    if not path.exists():
        return found
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            verdict = verdict_from(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise damaged_line(path, number, error) from error
        earlier = found.get(verdict.content)
        if earlier is not None and earlier.drawn == "random":
            verdict = verdict_from(asdict(verdict) | {"drawn": "random"})
        found[verdict.content] = verdict
    return found


def damaged_line(path: Path, number: int, error: object) -> DataError:
    """The error for a line that is no verdict."""
    return DataError(f"not a verdict: {error}", where=f"{path}:{number}", fix="mend or remove this line")


def verdict_from(row: Json) -> Verdict:
    """A verdict from its JSON object.

    Raises:
        ValueError: it is none.
    """
    verdict = Verdict(**row)
    if verdict.decision not in DECISIONS:
        raise ValueError(f"'{verdict.decision}' is none of {', '.join(DECISIONS)}")
    if verdict.drawn not in get_args(Drawn):
        raise ValueError(f"'{verdict.drawn}' is none of {', '.join(get_args(Drawn))}")
    if verdict.decision == "edit" and not (verdict.edited or "").strip():
        raise ValueError("an edit needs the edited answer")
    return verdict


def append_verdicts(path: Path, verdicts: Iterable[Verdict]) -> int:
    """Add verdicts to the file; each is on disk when this returns. How many they were."""
    make_folder(path.parent)
    count = 0
    try:
        with path.open("ab") as file:
            for verdict in verdicts:
                line = json.dumps(asdict(verdict), ensure_ascii=False) + "\n"
                start = "\n" if file.tell() and not _ends_whole(path) else ""  # torn by a crash
                file.write((start + line).encode("utf-8"))
                file.flush()
                count += 1
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(path, error) from error
    return count


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def verdicts_digest(verdicts: Mapping[str, Verdict]) -> str:
    """A hash of what verdicts change in a dataset: edits and rejections."""
    changes = [[v.content, v.decision, v.edited] for v in verdicts.values() if v.defective]
    return digest(sorted(changes, key=str))
