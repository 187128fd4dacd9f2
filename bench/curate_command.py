"""What the whole of `luthier curate` takes: reading, rules, duplicates, tokens, split, proof, files.

    python bench/curate_command.py [--rows 100000] [--documents FILE.jsonl] [--again]

The documents of `bench/curate.py` go through the command as it comes, with a recipe for plain texts of the bundled base
(`objective.kind=text`, `data.too_long=split`). With `--again` it is run three times more: on unchanged rows; with one
in a hundred added at the end; with as many inserted in the middle. One JSON document on standard output: for each run
seconds by the clock, `cpu` (user and system time of all processes), `resident_gib` (the most that all processes held
together) and the rows kept.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import curate

RECIPE = """\
name: documents
model: {base: ukulele}
objective: {kind: text}
data:
  sources: [{path: documents.jsonl}]
  too_long: split
"""
LUTHIER = [sys.executable, "-c", "from luthier.cli.main import main; main()"]


def command(folder: Path) -> dict[str, Any]:
    """One run of the command; the file system's cache is as the run before left it."""
    before, started = curate.cpu(), time.perf_counter()
    asked = [*LUTHIER, "curate", "recipe.yaml", "--json"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(asked, cwd=folder, **pipes) as process, curate.Resident(process.pid) as resident:
        said, failed = process.communicate()
    if process.returncode:
        sys.exit(failed)
    rows = json.loads(said)["rows"]
    return {
        "rows": rows["read"],
        "kept": rows["kept"],
        "seconds": round(time.perf_counter() - started, 1),
        "cpu": round(curate.cpu() - before, 1),
        "resident_gib": round(resident.kib / 2**20, 2),
    }


def widen(path: Path, rows: int, more: Path, *, middle: bool) -> None:
    """The first `rows` lines of a file with further ones after them, or in the middle."""
    aside = path.with_suffix(".wider")
    with path.open("rb") as old, aside.open("wb") as new:
        for number, line in enumerate(old):
            if number == (rows // 2 if middle else rows):
                new.write(more.read_bytes())
            if number < rows:
                new.write(line)
        if not middle:
            new.write(more.read_bytes())
    aside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--documents", type=Path, help="where the documents lie, or are to lie for another time")
    parser.add_argument("--again", action="store_true", help="also on unchanged rows, and with one in a hundred added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made, _ = curate.documents(options, folder)
        path = folder / "documents.jsonl"
        if made != path:
            path.symlink_to(made.resolve())
        (folder / "recipe.yaml").write_text(RECIPE)
        found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "first": command(folder)}
        print(json.dumps(found), file=sys.stderr)
        if options.again:
            found["unchanged"] = command(folder)
            if made != path:
                path.unlink()
                shutil.copy(made, path)
            more = folder / "more.jsonl"
            for seed, kind in enumerate(("appended", "inserted"), 1):
                curate.generate(more, max(1, options.rows // 100), seed=seed)
                widen(path, options.rows, more, middle=kind == "inserted")
                found[kind] = command(folder)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
