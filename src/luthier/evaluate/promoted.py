"""Which models were released, in order: the gate's second reference, so that small losses do not add up."""

import json
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from luthier.artifact import disk_error, make_folder


class Promoted:
    """A file of lines beside the runs: name, evaluation and its folder, oldest first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self, name: str) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                if row["name"] == name and row["sha256"] and row["folder"]:
                    found.append(row)
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash
        return found

    def note(self, name: str, sha256: str, folder: str) -> None:
        """Remember a release; the same evaluation once.

        Raises:
            Missing: the disk is full or cannot be written.
        """
        make_folder(self.path.parent)
        with FileLock(self.path.with_name(self.path.name + ".lock")):
            if any(row["sha256"] == sha256 for row in self._read(name)):
                return
            row = {"time": round(time.time(), 3), "name": name, "sha256": sha256, "folder": folder}
            try:
                with self.path.open("ab", buffering=0) as file:
                    file.write(("\n" + json.dumps(row) + "\n").encode())
            except OSError as error:
                raise disk_error(self.path, error) from error

    def before(self, name: str, sha256: str) -> str | None:
        """The folder of the evaluation promoted last before this one; the last of all when it never was."""
        found = self._read(name)
        own = next((at for at, row in enumerate(found) if row["sha256"] == sha256), len(found))
        return str(found[own - 1]["folder"]) if own else None
