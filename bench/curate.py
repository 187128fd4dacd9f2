"""How quick is curation of documents: exact duplicates, near duplicates (every pair verified) and ten rules.

    python bench/curate.py [--rows 1000000] [--documents FILE.jsonl] [--steps rows] [--peer PYTHON] [--peer-rows 20000]

Documents of 2.2 kB are generated, with planted exact copies (5 %) and near copies (10 %, a few words exchanged). They
go through the same functions as `luthier curate`, without a tokenizer. With `--peer`, the Python of an environment that
has datatrove, its MinHash stages (14 bands of 8, five words) do their part of the work on the first of the documents.

Two gates come before any number, by Jaccard indices of word sets worked out here, not by the code that is measured: of
the near copies with an index of at least 0.8, 99 % are found; of what is called a near duplicate, 99 % has an index of
at least 0.75. With `--steps rows` only what looks at single rows is done: reading, the ten rules and what is written of
them, to see that its memory does not grow with the rows. One JSON document on standard output. Seconds are wall clock;
`cpu` is user and system time of all processes, which is what to compare on a shared machine; `resident_gib` is the most
that all processes held together.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from luthier.data.memory import open_memory
from luthier.data.outcome import Workshop
from luthier.data.read import Files
from luthier.data.shapes import Reading
from luthier.data.shard import Feed, take_in
from luthier.data.step import Surroundings
from luthier.data.table import LiveRows, Table
from luthier.recipe import Curate

ROOT = Path(__file__).parents[1]
WORDS = 365
EXACT, NEAR, BLOCK = 0.05, 0.10, 10_000
RULES = ["secrets", "pii", "length", "boilerplate", "language", "profanity", "repetition", "c4", "gopher", "fineweb"]
CURATE = {
    **dict.fromkeys(Curate.model_fields),
    **{name: {} for name in (*RULES, "duplicates", "near_duplicates")},
    "language": {"keep": ["en"], "action": "review"},
}
COMMON = (
    "the of and to a in is that it was for on are as with be they at this have from or one had by but not what".split()
)
PEER = """
import sys
from datatrove.executor.local import LocalPipelineExecutor as E
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
source, out, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
if __name__ == "__main__":
    sign = [JsonlReader(source), MinhashDedupSignature(output_folder=out + "/s", config=config)]
    def run(steps, name, tasks, workers=workers):
        E(pipeline=steps, tasks=tasks, workers=workers, logging_dir=out + name, start_method="fork").run()

    run(sign, "/l1", workers)
    bucket = [MinhashDedupBuckets(input_folder=out + "/s", output_folder=out + "/b", config=config)]
    run(bucket, "/l2", 14)
    cluster = [MinhashDedupCluster(input_folder=out + "/b", output_folder=out + "/r", config=config)]
    run(cluster, "/l3", 1, workers=1)
    kept = JsonlWriter(out + "/o", compression=None)
    run([JsonlReader(source), MinhashDedupFilter(input_folder=out + "/r"), kept], "/l4", workers)
"""


def vocabulary() -> list[str]:
    """English words of this project's own pages."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py")]
    found = re.findall(r"\b[a-z]{3,10}\b", " ".join(page.read_text(encoding="utf-8") for page in pages))
    return sorted(set(found) - {*COMMON, "javascript", "lorem"})  # C4 takes such lines out


def sentences(ids: Any, words: Any, r: Any) -> str:
    """Words as sentences of 8 to 20 words, three or so to a line."""
    parts, at = [], 0
    while at < len(ids):
        size = int(r.integers(8, 21))
        parts.append(" ".join(words[ids[at : at + size]]).capitalize() + ".")
        at += size
    return "\n".join(" ".join(parts[i : i + 3]) for i in range(0, len(parts), 3))


def generate(path: Path, rows: int, *, seed: int = 0) -> list[tuple[int, int, str]]:
    """Write documents and return the planted copies: row, the row it is a copy of, and `exact` or `near`."""
    r = np.random.default_rng(seed)
    words = np.array([*COMMON, *vocabulary()], dtype=object)
    planted = []
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, rows, BLOCK):
            texts: list[str] = []
            for i in range(start, min(start + BLOCK, rows)):
                kind = r.random()
                if texts and kind < EXACT + NEAR:
                    origin = int(r.integers(len(texts)))
                    text = texts[origin]
                    if kind >= EXACT:
                        text = exchanged(text, words, r)
                    planted.append((i, start + origin, "exact" if kind < EXACT else "near"))
                else:
                    rare = r.integers(len(COMMON), len(words), WORDS)
                    ids = np.where(r.random(WORDS) < 0.4, r.integers(0, len(COMMON), WORDS), rare)
                    text = sentences(ids, words, r)
                texts.append(text)
                file.write(json.dumps({"text": text}) + "\n")
    return planted


def exchanged(text: str, words: Any, r: Any) -> str:
    """The text with one to seven words exchanged: a Jaccard index between 0.8 and 0.97."""
    parts = re.split(r"(\s+)", text)
    inside = [i for i, part in enumerate(parts) if part.isalpha() and part.islower()]  # lines end as before
    for i in r.choice(inside, int(r.integers(1, 8)), replace=False):
        parts[i] = str(r.choice(words))
    return "".join(parts)


def exact_index(a: str, b: str) -> float:
    """The Jaccard index of sets of five words in a row, written down plainly."""
    first, second = (
        {tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (re.findall(r"\w+", x.lower()) for x in (a, b))
    )
    return len(first & second) / len(first | second)


class Resident:
    """The most memory that a process and all below it held together: shared pages count once. Use it in a `with`."""

    def __init__(self, process: int | None = None) -> None:
        self._top = Path("/proc", "self" if process is None else str(process))

    def __enter__(self) -> "Resident":
        self.kib, self._done = 0, threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._done.wait(0.5):
            self.kib = max(self.kib, sum(map(_share, _below(self._top))))


def _below(process: Path) -> Iterator[Path]:
    """A process and all that it started, and that those started."""
    yield process
    try:
        children = "".join(path.read_text() for path in process.glob("task/*/children")).split()
    except OSError:  # it has ended
        return
    for child in children:
        yield from _below(Path("/proc", child))


def _share(process: Path) -> int:
    """Proportional set size in KiB, 0 for a process that is gone."""
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:")))


def documents(options: argparse.Namespace, folder: Path) -> tuple[Path, list[tuple[int, int, str]]]:
    """The documents and what is planted in them: made, or those of an earlier time."""
    path = options.documents or folder / "documents.jsonl"
    planted = path.with_suffix(".planted.json")
    if not planted.exists():
        made = generate(path, options.rows)
        planted.write_text(json.dumps([options.rows, made]))
    rows, made = json.loads(planted.read_text())
    if rows != options.rows:
        sys.exit(f"{path} holds {rows} documents: give --rows {rows}, or another file")
    return path, [tuple(one) for one in made]


def cpu() -> float:
    """User and system seconds of this process and of those it has waited for."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def curate(
    path: Path, folder: Path, parts: dict[str, float], *, sets: bool = True
) -> list[tuple[int, str, int | None]]:
    """What `luthier curate` does before rendering; number, fate and the row that stays. Seconds land in `parts`."""
    asked = CURATE if sets else CURATE | dict.fromkeys(("duplicates", "near_duplicates"))
    workshop = Workshop(Curate.model_validate(asked), Surroundings(), None, 1 << 30)
    (folder / "memory").mkdir()
    (folder / "table").mkdir()
    with open_memory(folder / "memory", workshop.fingerprint()) as memory, Table(memory, folder / "table") as table:
        started = time.perf_counter()
        for _ in take_in([Feed(0, Files(path.name, [(path, path.name)]), 1 << 30, Reading())], table, workshop):
            pass
        parts["rows"] = time.perf_counter() - started
        for i, step in enumerate(workshop.sets):
            started = time.perf_counter()
            table.resolve(step.resolve(LiveRows(table, i)), step.name)
            parts[step.name] = time.perf_counter() - started
        return table.sql("SELECT n - 1, fate, kept - 1 FROM rows ORDER BY n").fetchall()


def gates(fates: list[Any], planted: list[tuple[int, int, str]], path: Path) -> dict[str, Any]:
    """Recall of what was planted and precision of what was found, by indices worked out here."""
    fate = {n: name for n, name, _ in fates}
    named = {n: other for n, name, other in fates if name == "near_duplicate"}
    wanted = {n for pair in planted if pair[2] == "near" for n in pair[:2]} | set(named) | set(named.values())
    with path.open(encoding="utf-8") as file:
        texts = {i: json.loads(line)["text"] for i, line in enumerate(file) if i in wanted}
    stays = {i for i, name in fate.items() if name in {"kept", *GONE}}  # rules may take a row before it is compared
    near = [(i, j) for i, j, kind in planted if kind == "near" and {i, j} <= stays]
    near = [(i, j) for i, j in near if exact_index(texts[i], texts[j]) >= 0.8]
    # of two close rows one goes, or both go for a third
    found = sum(fate[i] in GONE or fate[j] in GONE for i, j in near)
    right = sum(exact_index(texts[i], texts[j]) >= 0.75 for i, j in named.items())
    exact = [(i, j) for i, j, kind in planted if kind == "exact" and {i, j} <= stays]
    result = {
        "near_planted": len(near),
        "recall": round(found / len(near), 5),
        "near_found": len(named),
        "precision": round(right / max(len(named), 1), 5),
        "taken_by_rules": len(fate) - len(stays),
        "exact_recall": round(sum(fate[i] in GONE or fate[j] in GONE for i, j in exact) / len(exact), 5),
    }
    assert result["recall"] >= 0.99, result
    assert result["precision"] >= 0.99, result
    assert result["exact_recall"] == 1, result
    return result


GONE = {"near_duplicate", "duplicate"}


def check_peer(python: str) -> None:
    """End with what to install when the peer is not there: before the work, not after it."""
    asked = "import datatrove.pipeline.dedup, orjson, spacy"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
        said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except OSError as error:
        said = [str(error)]
    if said:
        install = "python -m venv peer && peer/bin/pip install 'datatrove[io,processing]' spacy orjson"
        sys.exit(f"the peer does not run: {said[0]}\n  {install}\n  python bench/curate.py --peer peer/bin/python")


def peer(python: str, path: Path, rows: int, folder: Path, tasks: int) -> dict[str, float]:
    """Datatrove's MinHash on the first documents."""
    source = folder / "peer"
    source.mkdir()
    with path.open(encoding="utf-8") as file:
        lines = [next(file) for _ in range(rows)]
    for k in range(tasks):
        (source / f"{k}.jsonl").write_text("".join(lines[k::tasks]), encoding="utf-8")
    script = folder / "peer.py"
    script.write_text(PEER)
    before, started = cpu(), time.perf_counter()
    command = [python, str(script), str(source), str(folder / "peer_out"), str(tasks)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    spent, wall = cpu() - before, time.perf_counter() - started
    return {
        "rows": rows,
        "seconds": round(wall, 1),
        "cpu": round(spent, 1),
        "rows_per_cpu_second": round(rows / spent, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--documents", type=Path, help="where the documents lie, or are to lie for another time")
    parser.add_argument("--steps", choices=("all", "rows"), default="all", help="rows: none that compares rows")
    parser.add_argument("--peer", help="the Python of an environment with datatrove[io,processing] and spacy")
    parser.add_argument("--peer-rows", type=int, default=20_000)
    options = parser.parse_args()
    if options.peer:
        check_peer(options.peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, planted = documents(options, folder)
        parts: dict[str, float] = {}
        with Resident() as resident:
            before, started = cpu(), time.perf_counter()
            fates = curate(path, folder, parts, sets=options.steps == "all")
            spent, wall = cpu() - before, time.perf_counter() - started
        found = {
            "rows": options.rows,
            "bytes_per_row": round(path.stat().st_size / options.rows),
            "cores": len(os.sched_getaffinity(0)),
            **(gates(fates, planted, path) if options.steps == "all" else {"steps": options.steps}),
            "seconds": round(wall, 1),
            "cpu": round(spent, 1),
            "parts": {k: round(v, 1) for k, v in parts.items()},
            "rows_per_cpu_second": round(options.rows / spent, 1),
            "resident_gib": round(resident.kib / 2**20, 2),
        }
        print(json.dumps(found, indent=1), file=sys.stderr)
        if options.peer:
            tasks = len(os.sched_getaffinity(0))
            found["datatrove"] = peer(options.peer, path, min(options.peer_rows, options.rows), folder, tasks)
            found["times_datatrove"] = round(
                found["rows_per_cpu_second"] / found["datatrove"]["rows_per_cpu_second"], 1
            )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
