"""The ledger of looks: every decision on a suite is written down, for each one lets chance in.

A suite that many decisions were made on is slowly fitted to, though nobody trains on it. After `WARN` decisions on
different models the ledger warns, and the suite's items are drawn anew from its reserve. It also remembers the rules:
changing them after results were seen is an override, and stands in the verdict.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from luthier.artifact import disk_error, make_folder

WARN = 20


class Looks:
    """The ledger beside the runs of one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every look, oldest first; torn lines are left out."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                row["suites"], row["model"], row["rules"]  # a KeyError says that it is torn
            except (ValueError, KeyError, TypeError):
                continue
            found.append(row)
        return found

    def write(self, run: str, model: str, suites: Mapping[str, str], rules: Sequence[str], verdict: str) -> None:
        """Note a decision; the same one twice is one look.

        Args:
            run: where it was made.
            model: the hash of the evaluation that was decided on.
            suites: the lock of each suite.
            rules: the rules, as lines.
            verdict: what was decided.

        Raises:
            Missing: the disk is full or cannot be written.
        """
        row = {"run": run, "model": model, "suites": dict(suites), "rules": list(rules), "verdict": verdict}
        make_folder(self.path.parent)
        with FileLock(self.path.with_name(self.path.name + ".lock")):
            if any({k: known.get(k) for k in row} == row for known in self.read()):
                return
            line = json.dumps({"time": round(time.time(), 3), **row}, ensure_ascii=False)
            try:
                with self.path.open("ab", buffering=0) as file:
                    file.write(("\n" + line + "\n").encode("utf-8", "replace"))
            except OSError as error:
                raise disk_error(self.path, error) from error

    def count(self, suite: str, lock: str, *, besides: str = "") -> int:
        """On how many different models this suite has decided, in other runs than `besides`."""
        found = (row for row in self.read() if row["suites"].get(suite) == lock and row["run"] != besides)
        return len({row["model"] for row in found})

    def rotation(self, suite: str, lock: str, run: str) -> int:
        """How often the suite's items were due to be drawn anew before this run."""
        return self.count(suite, lock, besides=run) // WARN

    def warnings(self, suites: Mapping[str, str]) -> list[str]:
        """The suites that have decided too often."""
        found = []
        for suite, lock in suites.items():
            if (count := self.count(suite, lock)) >= WARN:
                found.append(
                    f"{suite} has decided on {count} models: it may be fitted to by now; "
                    "give it new items, or a larger gate.reserve"
                )
        return found

    def overrides(self, model: str, suites: Mapping[str, str], rules: Sequence[str]) -> list[str]:
        """Rules that were others when the same model's results were first decided on."""
        for row in self.read():
            if row["model"] == model and row["suites"] == dict(suites):
                gone = [f"was '{rule}'" for rule in row["rules"] if rule not in rules]
                new = [f"now '{rule}'" for rule in rules if rule not in row["rules"]]
                return [f"rules changed after this model's results were seen: {'; '.join(gone + new)}"] * bool(
                    gone + new
                )
        return []
