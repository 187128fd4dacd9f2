"""Do near twins stand on both sides of the split? Checked file by file, by brute force.

    python bench/twins.py FOLDER_OR_FILE... [--index 0.8]

Every file that holds rows is curated and divided as `luthier curate` does it, with near duplicates kept together.
Then the Jaccard index of every row of training with every row held out is worked out from written-down shingles
(five words in a row, or five letters of texts under twenty words), without the code that found near duplicates.
One JSON document on standard output: rows and pairs at or above the index by file, or why it was not measured. Exit
code 4 when there is such a pair.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.gz")
NAMES = ("tweet", "prompt", "question", "Question", "sentence", "query")
"""Names of fields in well-known files that hold what a reader sees: rows of no known shape are read as these texts."""


def shingles(text: str) -> set[str]:
    """Five words in a row, or five letters of a short text."""
    words = re.findall(r"\w+|[%*+/<=>]", text.lower())
    if len(words) >= 20:
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}
    whole = f" {' '.join(words)} "
    return {whole[i : i + 5] for i in range(max(len(whole) - 4, 1))} if words else set()


def text_of(row: dict[str, Any]) -> str:
    turns = [turn for key in ("prompt", "messages", "chosen", "rejected") for turn in row.get(key, ())]
    return row.get("text") or "\n\n".join(turn["content"] for turn in turns if turn["role"] != "system")


def read(path: Path) -> list[set[str]]:
    with path.open(encoding="utf-8") as file:
        return [shingles(text_of(json.loads(line))) for line in file]


def twins(training: list[set[str]], held: list[set[str]], index: float) -> Iterator[tuple[int, int, float]]:
    """All pairs at or above the index, by counting shared shingles."""
    where: defaultdict[str, list[int]] = defaultdict(list)
    for i, found in enumerate(training):
        for one in found:
            where[one].append(i)
    for j, found in enumerate(held):
        shared = Counter(i for one in found for i in where.get(one, ()))
        for i, n in shared.items():
            value = n / (len(training[i]) + len(found) - n)
            if value >= index:
                yield i, j, value


def check(path: Path, index: float, folder: Path) -> dict[str, Any]:
    """Curate one file and count the twins; says so when its rows cannot be read or divided."""
    for fields in ({}, *({"text": name} for name in NAMES)):
        source = {"path": str(path.resolve()), "fields": fields}
        recipe = folder / "recipe.json"
        data = {"sources": [source], "max_rejected": 0.9, "split": {"twins": index}, "max_length": 512}
        recipe.write_text(json.dumps({"name": "twins", "data": data}))
        command = [sys.executable, "-m", "luthier", "curate", str(recipe), "--json", "--runs", str(folder / "runs")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            said = json.loads(done.stdout)
            out = Path(said["artifacts"]["dataset"])
            training, held = read(out / "train.jsonl"), read(out / "validation.jsonl")
            pairs = list(twins(training, held, index))
            rows = {"read": said["rows"]["read"], "training": len(training), "held_out": len(held)} | fields
            return rows | {"twins": len(pairs), "highest": round(max((p[2] for p in pairs), default=0), 3)}
        if "unknown_shape" not in done.stdout + done.stderr:
            break
    return {"not_measured": " ".join((done.stderr or done.stdout).split())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--index", type=float, default=0.8)
    options = parser.parse_args()
    files = [f for path in options.paths for f in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    results = {}
    for path in files:
        name = path.name if path in options.paths else f"{path.parent.name}/{path.name}"
        if path.is_file() and not path.name.endswith(ENDINGS):
            results[name] = {"not_measured": "no file of rows"}
        elif path.is_file():
            with tempfile.TemporaryDirectory() as folder:
                results[name] = check(path, options.index, Path(folder))
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    total = sum(result.get("twins", 0) for result in results.values())
    print(json.dumps({"index": options.index, "twins": total, "files": results}, indent=1))
    sys.exit(4 if total else 0)


if __name__ == "__main__":
    main()
