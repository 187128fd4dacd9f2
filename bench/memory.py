"""The plan's memory model against measured peaks: each setting is trained for two updates in a process of its own.

    python bench/memory.py [--only NUMBER] [--keep FOLDER] [--table docs/memory.md]

The model has random weights of a Llama's shape; the peak is the process's largest resident memory on a CPU, the largest
allocated memory on a GPU, as the run's own events record it. With --keep each setting's result is a file in a folder,
and those that are there are not measured again, only predicted. One JSON document on standard output.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = {
    "30M": {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408, "vocab_size": 8192},
    "110M": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 2048, "vocab_size": 16384},
}
SETTINGS: list[tuple[str, dict[str, Any], int, dict[str, Any]]] = [
    ("30M", {"kind": "full"}, 512, {}),
    ("30M", {"kind": "full"}, 2048, {}),
    ("30M", {"kind": "lora"}, 1024, {}),
    ("30M", {"kind": "lora"}, 4096, {}),
    ("30M", {"kind": "lora", "dropout": 0.1}, 2048, {}),
    ("30M", {"kind": "qlora"}, 2048, {}),
    ("30M", {"kind": "prompt"}, 2048, {}),
    ("30M", {"kind": "adapter"}, 2048, {}),
    ("30M", {"kind": "ia3"}, 2048, {}),
    ("30M", {"kind": "freeze"}, 2048, {}),
    ("30M", {"kind": "lora"}, 4096, {"memory": "lean"}),
    ("110M", {"kind": "full"}, 512, {}),
    ("110M", {"kind": "full"}, 1024, {"memory": "lean"}),
    ("110M", {"kind": "lora"}, 1024, {}),
    ("110M", {"kind": "qlora"}, 512, {}),
    ("110M", {"kind": "prefix"}, 1024, {}),
]


def plan_of(number: int, folder: Path) -> tuple[Any, Any, Any, Any]:
    """Recipe, tuning, plan and base of a setting, with its model and rows in a folder."""
    import numpy as np
    import torch
    from pydantic import TypeAdapter

    from luthier.models.base import Base
    from luthier.models.counting import model_facts, trainable_parameters
    from luthier.models.load import quiet
    from luthier.plan import decide, find_hardware
    from luthier.recipe import Tuning, build_recipe
    from luthier.text import save_rows
    from luthier.text.render import TrainingRow

    quiet()
    size, tuning, length, training = SETTINGS[number]
    # made in another process, so that its memory is not counted here
    subprocess.run([sys.executable, __file__, "--make", f"{size}:{folder}"], check=True)
    source = np.random.default_rng(0)
    vocabulary = SHAPES[size]["vocab_size"]
    rows = [
        TrainingRow(source.integers(5, vocabulary, length // 4).tolist(), [False] * 8 + [True] * (length // 4 - 8))
    ] * 16
    for side, count in (("train", 16), ("validation", 2)):
        save_rows(folder / f"{side}.safetensors", rows[:count])
    part = {"rows": 16, "tokens": 4 * length, "trained_tokens": 4 * length - 128, "longest": length // 4}
    recipe = build_recipe(
        {
            "name": "bench", "data": {"sources": [{"path": "x"}]}, "tuning": tuning,
            "training": {"max_steps": 2, "batch_tokens": length, "micro_batch_tokens": length, **training},
        }
    )  # fmt: skip
    base = Base("bench", folder, None, trust_remote_code=False)
    dataset = {"train": part, "validation": part, "replay": None}
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    plan = decide(
        recipe, dataset, model_facts(base), find_hardware(), dtype, lambda asked: trainable_parameters(base, asked)
    )
    return recipe, TypeAdapter(Tuning).validate_python(tuning), plan, base


def one(number: int) -> dict[str, Any]:
    """Train one setting and read what the run noted."""
    from luthier import events
    from luthier.train.fit import Job, fit

    size, tuning, length, training = SETTINGS[number]
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        recipe, chosen, plan, base = plan_of(number, folder)
        log = events.Log(folder / "events.jsonl")
        (folder / "out").mkdir()
        started = time.monotonic()
        fit(Job(recipe, chosen, plan.to_json(), base, folder, folder / "out"), Tokenizer(), log)
        found = [event for _, event in events.read(log.path) if isinstance(event, events.MemoryMeasured)]
    peak = max(event.measured for event in found)
    return {
        "model": size, "tuning": tuning, "tokens": length, **training, "predicted": plan.memory["total"],
        "measured": peak, "probe": found[0].measured, "parts": plan.memory,
        "seconds": round(time.monotonic() - started, 1),
        "error": plan.memory["total"] / peak - 1,
    }  # fmt: skip


class Tokenizer:
    """A stand-in, of which training asks two lines."""

    pad_token_id, eos_token_id = 0, 1
    pad_token = "<pad>"
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012 - never changed

    def save_pretrained(self, _: Path) -> None:
        """Nothing to save."""


def make(asked: str) -> None:
    """A model of random weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    size, _, folder = asked.partition(":")
    shape = SHAPES[size]
    config = LlamaConfig(num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=8192, **shape)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


EXPLAINED = """
## How the estimate is made

By parts, each with its reason, in `luthier/plan/memory.py`: the runtime, weights, gradients, AdamW's moments, what each
block keeps for the backward pass, the logits of one chunk, a checkpoint's copy, and what the allocator wastes. What a
block keeps is not fitted: `tests/unit/train/test_activations.py` holds the formula of every tuning against the tensors
that autograd keeps. The runtime is, and the waste, which is larger where activations are computed again: both were
fitted to this table, so other models and machines are its test. Each was measured on one thread; three of them on two
threads took 2.5 % more, 1.3 % more and 0.5 % less.

The waste is large on a CPU. glibc gives freed memory back late, and a hole that a tensor left does not fit a new one of
the same size, since tensors begin at multiples of 64 bytes. Who needs memory more than time can have each tensor mapped
for itself, which leaves no waste:

    GLIBC_TUNABLES=glibc.malloc.mmap_threshold=1048576:glibc.malloc.mmap_max=1000000 THP_MEM_ALLOC_ENABLE=1 luthier run

LoRA at 2,048 tokens a pass on the model of 30 million parameters took 1.49 GB in this way in place of 2.36 GB, and a
third more processor time (measured before its layers were computed by one function).

A whole `luthier run` holds about 0.1 GB more than training alone, as this bench does: the libraries that read and
curate rows. The trial update before training measures what is left open, and makes passes smaller where it has to.

## Not measured

No GPU was at hand. There the parts are the same, with 2 bytes a frozen weight and activation and 8 % waste, and the
trial update checks them on the card. With FSDP every process loads the whole model before it is cut, which the plan
counts as `loading`.
"""


def table(found: list[dict[str, Any]], errors: list[float]) -> str:
    """The page."""
    import torch

    from luthier.plan import find_hardware

    lines = [
        "# Memory: predicted and measured",
        "",
        "`python bench/memory.py --table docs/memory.md` trains each setting for two updates in a process of its own",
        f"and compares the plan's estimate with the peak of resident memory. {time.strftime('%Y-%m-%d')}, "
        f"{find_hardware().cpu}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}, float32.",
        "",
        f"**Median error {statistics.median(errors):.1%}, worst {max(errors):.1%}, {len(found)} settings.** Models",
        "have random weights and the shape of a Llama; every pass holds four rows.",
        "",
        "| model | tuning | tokens a pass | recompute | predicted MB | measured MB | error |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in found:
        name = row["tuning"]["kind"] + (", dropout" if row["tuning"].get("dropout") else "")
        again = "yes" if row.get("memory") == "lean" else ""
        sizes = f"{row['predicted'] / 1e6:,.0f} | {row['measured'] / 1e6:,.0f} | {row['error']:+.1%}"
        lines.append(f"| {row['model']} | {name} | {row['tokens']:,} | {again} | {sizes} |")
    return "\n".join(lines) + "\n" + EXPLAINED


def measure(number: int, keep: Path | None) -> dict[str, Any]:
    """One setting, in a process of its own; what is kept is read."""
    kept = None if keep is None else keep / f"{number}.json"
    if kept is not None and kept.exists():
        found = json.loads(kept.read_text())
        with tempfile.TemporaryDirectory() as folder:
            found["parts"] = plan_of(number, Path(folder))[2].memory
        found["predicted"] = found["parts"]["total"]
        return found | {"error": found["predicted"] / found["measured"] - 1}
    command = [sys.executable, __file__, "--only", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int)
    parser.add_argument("--make")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.make:
        make(options.make)
        return
    if options.only is not None:
        print(json.dumps(one(options.only)))
        return
    found = []
    for number in range(len(SETTINGS)):
        found.append(measure(number, options.keep))
        row = found[-1]
        sizes = f"{row['predicted'] / 1e6:,.0f} MB predicted, {row['measured'] / 1e6:,.0f} MB measured"
        what = f"{row['model']} {row['tuning']} {row['tokens']}"
        print(f"{what}: {sizes}, {row['error']:+.1%}, {row['seconds']} s", file=sys.stderr, flush=True)
    errors = [abs(row["error"]) for row in found]
    if options.table:
        options.table.write_text(table(found, errors), encoding="utf-8")
    print(json.dumps({"median": statistics.median(errors), "worst": max(errors), "settings": found}, indent=1))


if __name__ == "__main__":
    main()
