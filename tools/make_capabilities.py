"""Writes the table of tunings and objectives into the README from docs/capabilities.json; `--check` only compares.

The JSON lists the pairs that a test proved. It is written by a run of all tests:
`python -m pytest --capabilities docs/capabilities.json`.
"""

import json
import sys

from pages import ROOT, settle

TUNINGS = ("full", "freeze", "lora", "qlora", "prefix", "prompt", "p-tuning", "adapter", "ia3")
OBJECTIVES = ("sft", "text", "reward", "dpo", "kto", "orpo", "ppo", "grpo", "rloo", "online_dpo")
BEGIN, END = "<!-- capabilities -->", "<!-- /capabilities -->"


def render(proved: set[tuple[str, str]]) -> str:
    """The table; a cell says `works` only when a test proved it."""
    rows = [f"| | {' | '.join(OBJECTIVES)} |", f"| --- |{' --- |' * len(OBJECTIVES)}"]
    for tuning in TUNINGS:
        cells = ["works" if (tuning, objective) in proved else "" for objective in OBJECTIVES]
        rows.append(f"| **{tuning}** | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    readme = ROOT / "README.md"
    proved = {(tuning, objective) for tuning, objective in json.loads((ROOT / "docs/capabilities.json").read_text())}
    strange = sorted(pair for pair in proved if pair[0] not in TUNINGS or pair[1] not in OBJECTIVES)
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if strange or text.count(BEGIN) != 1 or text.count(END) != 1:
        problem = f"docs/capabilities.json: unknown pairs {strange}" if strange else f"README.md has no {BEGIN} {END}"
        print(problem, file=sys.stderr)
        return 1
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page = f"{before}{BEGIN}\n{render(proved)}\n{END}{after}"
    return settle({readme: page}, "python tools/make_capabilities.py")


if __name__ == "__main__":
    sys.exit(main())
