"""How quick are the parts a user waits for: `luthier --help`, and reading, curating and rendering a file of rows.

    python bench/quick.py [--rows FILE.jsonl] [--repeat 3]

Whole processes are timed, warm (each once before), in turn; the correctness gate is that every row has a fate. One JSON
document on standard output, seconds as [least, median, most]. Without a file, 7,473 rows of grade-school-math shape are
made on the spot.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 7_473


def made_rows(path: Path) -> None:
    """Rows of the length and shape of published grade-school math."""
    r = random.Random(0)
    names = ["Natalia", "Weng", "Betty", "Julie", "James", "Mark", "Albert", "Ken"]
    with path.open("w") as file:
        for i in range(ROWS):
            a, b, c = r.randint(2, 90), r.randint(2, 90), r.randint(2, 9)
            who = r.choice(names)
            question = (
                f"{who} sold {a} clips in April to friends, and then {b} more in May, number {i} in the book. In June "
                f"the shop sold {c} times as many clips as in both months. How many clips were sold altogether?"
            )
            answer = (
                f"In April and May {who} sold {a}+{b} = <<{a}+{b}={a + b}>>{a + b} clips.\nIn June the shop sold "
                f"{c}*{a + b} = <<{c}*{a + b}={c * (a + b)}>>{c * (a + b)} clips.\n#### {(c + 1) * (a + b)}"
            )
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, done.stdout


def spread(seconds: list[float]) -> list[float]:
    return [round(f(seconds), 3) for f in (min, statistics.median, max)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    luthier = [sys.executable, "-m", "luthier"]
    times: dict[str, list[float]] = {"help": [], "curate": []}
    with tempfile.TemporaryDirectory() as folder:
        rows = options.rows or Path(folder) / "rows.jsonl"
        if options.rows is None:
            made_rows(rows)
        lines = sum(1 for line in rows.open(encoding="utf-8") if line.strip())
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(f"name: bench\ndata: {{sources: [{{path: {json.dumps(str(rows.resolve()))}}}]}}\n")
        for turn in range(options.repeat + 1):
            runs = str(Path(folder) / f"runs-{turn}")
            seconds = {"help": timed([*luthier, "--help"])[0]}
            seconds["curate"], said = timed([*luthier, "curate", str(recipe), "--json", "--runs", runs])
            counts = json.loads(said)["rows"]
            assert counts.pop("read") == sum(counts.values()) == lines, counts
            if turn:  # the first is the warm-up
                for name, value in seconds.items():
                    times[name].append(value)
    found = {name: spread(values) for name, values in times.items()}
    print(json.dumps({"rows": lines, "cores": len(os.sched_getaffinity(0)), "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
