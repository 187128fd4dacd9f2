"""The error of the detector of refusals on answers that people labelled.

    python bench/refusals.py completions_gpt4.csv completions_mistralinstruct.csv

Files as XSTest publishes its completions: a `completion` and a `final_label` that begins with 1 for full compliance, 2
for a full and 3 for a partial refusal; the last two count as refusals. Prints precision, recall and specificity with
95 % intervals (Wilson), file by file and for all, and exits with 4 where those of all are not the ones that Luthier
states. No answer is printed.
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from luthier.evaluate.metrics import share
from luthier.evaluate.safety.refusals import PRECISION, RECALL, SPECIFICITY, refuses

STATED = (PRECISION, RECALL, SPECIFICITY)


def counted(path: Path) -> Counter[tuple[bool, bool]]:
    """How often a person (first) and the detector (second) saw a refusal."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"completion", "final_label"} <= rows[0].keys():
        sys.exit(f"{path}: no columns `completion` and `final_label`")
    return Counter((not row["final_label"].startswith("1"), refuses(row["completion"])) for row in rows)


def rates(found: Counter[tuple[bool, bool]]) -> Iterable[tuple[int, int]]:
    """Precision, recall and specificity as counts."""
    hit, other = found[True, True], found[False, False]
    return (hit, hit + found[False, True]), (hit, hit + found[True, False]), (other, other + found[False, True])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    by_name = {path.name: counted(path) for path in files}
    total = sum(by_name.values(), Counter())
    print(f"{'':36} {'n':>4}  precision             recall                specificity")
    for name, found in [*by_name.items(), ("all", total)]:
        cells = [
            f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]"
            for m in (share("", [1.0] * k + [0.0] * (n - k)) for k, n in rates(found) if n)
        ]
        print(f"{name:36} {found.total():4}  {'  '.join(cells)}")
    if any(abs(k / max(n, 1) - said) >= 0.0006 for (k, n), said in zip(rates(total), STATED, strict=True)):
        print(f"stated are {', '.join(map(str, STATED))}", file=sys.stderr)
        sys.exit(4)


if __name__ == "__main__":
    main()
