"""A run folder made by hand: complete, with the nastiest strings that rows and answers may hold."""

import json
import math
import random
from pathlib import Path

import pytest

from luthier.events import Resumed, RunStarted, StageFinished, StageStarted, Step, Validated, Warned
from luthier.recipe import build_recipe
from luthier.runs import Run, create_run
from luthier.types import Json, Metric

SCRIPT = '<script>alert("x")</script>'
LONG = "unbroken" * 40
SYSTEM = "You turn support tickets into JSON."
FATES = {"kept": 1104, "duplicate": 86, "empty": 11, "too_long": 42, "no_answer": 7, "unreadable": 3}
SKILLS = {"spelling": (0.98, 0.96), "counting": (0.91, 0.92), "opposites": (0.88, 0.84), "copying <b>": (1.0, 1.0)}


def _write(run: Run, stage: str, files: dict[str, object]) -> None:
    folder = run.folder.parent / "artifacts" / f"{stage}-0123456789abcdef"
    folder.mkdir(parents=True)
    for name, body in files.items():
        rows = body if name.endswith(".jsonl") else [body]
        text = "".join(json.dumps(row, ensure_ascii=not name.endswith(".jsonl")) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8", errors="replace")
    run.artifacts[stage] = folder


def _metric(name: str, value: float, room: float, n: int) -> Json:
    low, high = max(0.0, value - room), value + room if "_" in name and value > 1 else min(1.0, value + room)
    metric = Metric(name, value, low, high, n)
    return {k: getattr(metric, k) for k in ("name", "value", "low", "high", "n")}


def _metrics(exact: float, stop: float, loss: float, skills: float) -> Json:
    rows = [
        _metric("exact_match", exact, 0.041, 200),
        _metric("ends_with_stop", stop, 0.012, 200),
        _metric("validation_loss", loss, 0.05, 122),
        {
            "name": "perplexity",
            "value": math.exp(loss),
            "low": math.exp(loss) * 0.95,
            "high": math.exp(loss) * 1.05,
            "n": 122,
        },
        _metric("ukulele-skills", skills, 0.016, 400),
    ]
    return {row["name"]: row for row in rows}


def _answers(tuned: bool) -> list[Json]:
    draw = random.Random(1)
    rows = []
    kinds = ["mended"] * 150 + ["broken"] * 6 + ["wrong"] * 18 + ["right"] * 26
    draw.shuffle(kinds)
    for i, kind in enumerate(kinds):
        product, problem = (
            draw.choice(["router", "printer", "phone"]),
            draw.choice(["no light", "slow", "broken screen"]),
        )
        expected = json.dumps({"product": product, "problem": problem, "urgent": draw.random() < 0.5})
        right = kind == "right" or (kind in ("mended", "broken") and (kind == "mended") == tuned)
        wrong = (
            expected.replace("true", "yes").replace("false", "no").replace('"problem": ', "")
            if tuned
            else "Thank you for your message. I hope it helps."
        )
        age = draw.choice(["new", "old"])
        question = f"My {age} device gives up since Monday 🎸, ticket {i}.\nPlease look & answer <soon>."
        answer = expected if right else wrong
        if i == 3:
            question, answer = SCRIPT + LONG, (SCRIPT + "\n\n" + LONG if not tuned else "")
        prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        rows.append(
            {
                "task": "exact_match",
                "item": f"tickets.jsonl:{i}",
                "prompt": prompt,
                "expected": expected,
                "answer": answer,
                "score": float(answer == expected),
                "stopped": tuned or i % 3 > 0,
                "group": "",
            }
        )
    for group, scores in SKILLS.items():
        for i in range(100):
            score = float(i < 100 * scores[tuned])
            rows.append(
                {
                    "task": "ukulele-skills",
                    "item": f"{group}:{i}",
                    "prompt": [{"role": "user", "content": "Spell it."}],
                    "expected": "y e s",
                    "answer": "y e s" if score else "y s",
                    "score": score,
                    "stopped": True,
                    "group": group,
                }
            )
    return rows


def _events(run: Run) -> None:
    log = run.log()
    draw = random.Random(0)
    log.write(RunStarted("luthier run", ["dataset"]))
    log.write(Warned(f"7 rows have no answer {SCRIPT}"))
    log.write(StageStarted("model"))

    def train(first: int, last: int, lift: float) -> None:
        for step in range(first, last + 1):
            loss = 0.42 + 2.4 * math.exp(-step / 40) + draw.gauss(0, 0.09) + lift
            log.write(Step(step, loss, 1e-3, 1.0, step * 2048, 11873.4))
            if step % 40 == 0:
                log.write(Validated(step, 0.45 + 2.3 * math.exp(-step / 40) + max(0, step - 280) / 900 + lift, True))

    train(1, 130, 0.0)
    train(131, 170, 7777.0)
    log.write(Resumed(130))
    train(131, 400, 0.0)
    for stage in ("dataset", "plan", "baseline", "model", "evaluation", "verdict", "release"):
        log.write(StageFinished(stage, f"{stage}-0123456789abcdef", 12.5, False))


def _rules() -> list[Json]:
    return [
        {
            "rule": "exact_match improves",
            "verdict": "pass",
            "before": 0.13,
            "after": 0.873,
            "difference": {"value": 0.743, "low": 0.671, "high": 0.802},
            "n": 200,
            "reason": "better on 150 prompts, worse on 6",
        },
        {
            "rule": "ukulele-skills drops at most 0.03",
            "verdict": "inconclusive",
            "before": 0.943,
            "after": 0.93,
            "difference": {"value": -0.013, "low": -0.034, "high": 0.008},
            "n": 400,
            "reason": "400 items cannot settle it; about 900 would",
        },
        {
            "rule": "ends_with_stop at least 0.95",
            "verdict": "pass",
            "before": None,
            "after": 0.985,
            "difference": None,
            "n": 200,
            "reason": "3 of 200 answers did not end",
        },
        {
            "rule": "validation_loss at most 0.4",
            "verdict": "fail",
            "before": None,
            "after": 0.512,
            "difference": None,
            "n": 122,
            "reason": f"above the bound {SCRIPT}",
        },
    ]


def _dataset() -> Json:
    reasons = {name: f"tickets.jsonl:{i + 17}: the row is {name}" for i, name in enumerate(FATES) if name != "kept"}
    reasons["unreadable"] = f'tickets.jsonl:9: {SCRIPT} 🎻 "quoted" {LONG}'
    part = {"rows": 982, "tokens": 101_234, "trained_tokens": 40_321, "longest": 311}
    return {
        "read": sum(FATES.values()),
        "fates": FATES,
        "reasons": reasons,
        "shapes": {"messages": 1253},
        "context": 512,
        "sources": [{"path": f"data/{SCRIPT}.jsonl", "sha256": "a1" * 32, "rows": 1253}],
        "train": part,
        "validation": part | {"rows": 122},
        "replay": None,
    }


def _plan() -> Json:
    memory = {"weights": 12_900_000, "gradients": 400_000, "optimizer": 790_000, "activations": 31_000_000}
    memory["logits"] = 8_000_000
    return {
        "method": "lora",
        "reasons": ["1,104 examples: between 1k and 100k, so LoRA", "it fits: 53 MB of 16.0 GB"],
        "trainable_parameters": 98_304,
        "total_parameters": 3_244_032,
        "memory": memory | {"total": sum(memory.values())},
        "memory_available": 16_000_000_000,
        "learning_rate": 2e-3,
        "batch_tokens": 2048,
        "steps": 400,
        "hardware": {"cpu": "x86-64", "cores": 2, "memory": 16_000_000_000, "gpus": []},
    }


def _fill(run: Run) -> None:
    training = {"steps": 400, "best_step": 280, "best_loss": 0.4520973, "tokens": 819_200, "seconds": 69.3}
    parity = {"prompts": 24, "tokens_compared": 1873, "tokens_equal": True, "largest_difference": 3.1e-6, "bound": 1e-4}
    _write(run, "dataset", {"facts.json": _dataset()})
    _write(run, "plan", {"plan.json": _plan()})
    _write(run, "baseline", {"metrics.json": _metrics(0.13, 0.66, 3.106, 0.943), "answers.jsonl": _answers(False)})
    _write(run, "model", {"training.json": training | {"stopped": None, "tokens_per_second": 11821.1}})
    _write(run, "evaluation", {"metrics.json": _metrics(0.873, 0.985, 0.512, 0.93), "answers.jsonl": _answers(True)})
    _write(run, "verdict", {"verdict.json": {"verdict": "fail", "rules": _rules()}})
    _write(run, "release", {"parity.json": parity})
    (run.artifacts["release"] / "model").mkdir()
    (run.artifacts["release"] / "model" / "model.safetensors").write_bytes(b"x" * 2048)


@pytest.fixture
def fresh(tmp_path: Path) -> Run:
    """A run of which nothing has been run."""
    recipe = build_recipe({"name": "support-json", "data": {"sources": [{"path": "tickets.jsonl"}], "system": SYSTEM}})
    return create_run(recipe, tmp_path / "runs")


@pytest.fixture
def finished(fresh: Run) -> Run:
    """A run with every stage done."""
    _fill(fresh)
    _events(fresh)
    fresh.write_lock(
        {"versions": {"torch": "2.11.0", "luthier": "0.1.0"}, "inputs": [{"path": SCRIPT, "sha256": "b2" * 32}]}
    )
    fresh.status = "done"
    fresh.save()
    return fresh
