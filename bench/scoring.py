"""Scoring choices by log-likelihood: Luthier against lm-evaluation-harness's hf backend, same items, model, machine.

    python bench/scoring.py [--items 1000] [--model FOLDER] [--shots 0] [--repeat 3]

Items are questions of `ukulele-skills` with four answers to choose from, `--shots` solved ones before each. Both sides
are timed in this process on loaded weights, in turn, after one warm-up each on 50 items. The correctness gate: every
log-likelihood agrees to 1e-3 and so do acc and acc_norm to 1e-6. One JSON document on standard output, seconds as
[least, median, most]. `cpu_seconds` count this process's own work, which others on the machine do not change.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import luthier.evaluate.asking as asking
from luthier.evaluate.items import Item, Task
from luthier.evaluate.marking import mark, summarise
from luthier.models.base import Base, ukulele_file
from luthier.models.load import load_model, quiet
from luthier.text import load_tokenizer

_ = simple_evaluate  # imported so that its start-up is not timed


def made_items(count: int, shots: int) -> tuple[Item, ...]:
    rows = [json.loads(line) for line in ukulele_file("skills.jsonl").read_text().splitlines()]
    draw = random.Random(0)
    by_skill: dict[str, list[str]] = {}
    for row in rows:
        by_skill.setdefault(row["skill"], []).append(row["answer"])
    items = []
    for number in range(count):
        row = rows[number % len(rows)]
        others = sorted({a for a in by_skill[row["skill"]] if a != row["answer"]})
        wrong = draw.sample(others, min(3, len(others)))
        choices = [row["answer"], *wrong]
        draw.shuffle(choices)
        before = "".join(f"Q: {r['prompt']}\nA: {r['answer']}\n\n" for r in rows[:shots])
        items.append(
            Item(str(number), expected=row["answer"], text=f"{before}Q: {row['prompt']}\nA:", choices=tuple(choices))
        )
    return tuple(items)


def ours(model: Any, tokenizer: Any, items: tuple[Item, ...]) -> list[list[float]]:
    task = Task("mc", items, kind="choose")
    return [said[0]["logprobs"] for said in asking.said(asking.Candidate(model, tokenizer, [0]), task)]


def theirs(lm: HFLM, items: tuple[Item, ...]) -> list[list[float]]:
    requests = [
        Instance("loglikelihood", {}, (item.text, " " + choice), k)
        for item in items
        for k, choice in enumerate(item.choices)
    ]
    found = iter(lm.loglikelihood(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in item.choices] for item in items]


def measures(items: tuple[Item, ...], logprobs: list[list[float]]) -> dict[str, float]:
    task = Task("mc", items, kind="choose")
    answers = mark(task, items, [[{"logprobs": row}] for row in logprobs])
    return {metric.name: metric.value for metric in summarise(task, answers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--model", type=Path, default=ukulele_file(""))
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="lm-eval's batch size")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    quiet()
    model = load_model(Base("bench", options.model, None, trust_remote_code=False), "float32")
    tokenizer = load_tokenizer(options.model)
    items = made_items(options.items, options.shots)
    with contextlib.redirect_stdout(sys.stderr):
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch, device="cpu")
    sides = {"luthier": lambda i: ours(model, tokenizer, i), "lm-eval": lambda i: theirs(lm, i)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[list[float]]] = {}
    for side in sides.values():
        side(items[:50])
    for _turn in range(options.repeat):
        for name, side in sides.items():
            started, busy = time.perf_counter(), time.process_time()
            found[name] = side(items)
            times[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - busy)
    pairs = zip(found["luthier"], found["lm-eval"], strict=True)
    worst = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
    assert worst < 1e-3, f"log-likelihoods differ by {worst}"
    mine, reference = (measures(items, found[name]) for name in sides)
    assert all(abs(mine[k] - reference[k]) < 1e-6 for k in ("mc", "mc.acc_norm")), (mine, reference)
    seconds = {k: [round(f(v), 2) for f in (min, statistics.median, max)] for k, v in times.items()}
    busy_seconds = {k: [round(f(v), 2) for f in (min, statistics.median, max)] for k, v in cpu.items()}
    body = {
        "items": len(items),
        "shots": options.shots,
        "cores": len(os.sched_getaffinity(0)),
        "lm_eval_batch": options.batch,
        "seconds": seconds,
        "cpu_seconds": busy_seconds,
        "ratio_of_medians": round(seconds["lm-eval"][1] / seconds["luthier"][1], 2),
        "ratio_of_cpu_medians": round(busy_seconds["lm-eval"][1] / busy_seconds["luthier"][1], 2),
        "largest_difference": worst,
        "acc": mine["mc"],
        "acc_norm": mine["mc.acc_norm"],
    }
    print(json.dumps(body, indent=1))


if __name__ == "__main__":
    main()
