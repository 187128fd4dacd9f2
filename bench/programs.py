"""The sandbox on HumanEval's published file: every reference solution must pass, and none whose last line is wrong.

    python bench/programs.py HumanEval.jsonl.gz

The last line of each solution is replaced, at its indent, by each of `raise AssertionError`, `return None` and
`return "wrong"`. One JSON document on standard output; exit code 4 where a solution does not pass or a broken one does,
those apart whose own tests accept the answer when Python runs them without any sandbox (`accepted_by_the_tests`).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from luthier.evaluate.code import humaneval, score_programs, tests_of
from luthier.evaluate.items import Item

WRONG = ("raise AssertionError", "return None", 'return "wrong"')


def broken(item: Item, line: str) -> str:
    """The solution with another last line."""
    *before, last = item.expected.rstrip().split("\n")
    return "\n".join([*before, last[: len(last) - len(last.lstrip())] + line]) + "\n"


def accepted(item: Item, body: str) -> bool:
    """What Python says of it by itself."""
    program = f"{item.more['prompt']}{body}\n{tests_of(item)}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    [task] = humaneval(parser.parse_args().file, "humaneval", plain=True)
    started = time.perf_counter()
    scores = score_programs([item.expected for item in task.items], task.items)
    body = {"programs": len(scores), "pass": sum(s.value for s in scores)}
    body["seconds"] = round(time.perf_counter() - started, 1)
    failed = body["pass"] < body["programs"]
    for line in WRONG:
        answers = [broken(item, line) for item in task.items]
        passed = [k for k, score in enumerate(score_programs(answers, task.items)) if score.value]
        unjust = [k for k in passed if not accepted(task.items[k], answers[k])]
        body[line] = {"pass": len(passed), "accepted_by_the_tests": [task.items[k].id for k in passed]}
        failed = failed or bool(unjust)
    print(json.dumps(body, indent=1))
    sys.exit(4 if failed else 0)


if __name__ == "__main__":
    main()
