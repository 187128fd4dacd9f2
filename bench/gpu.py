"""Everything that Luthier promises of one Hopper GPU, measured beside its peers in one command.

    pip install trl datasets bitsandbytes liger-kernel unsloth
    python bench/gpu.py [--keep bench-gpu] [--only NAME,NAME] [--table gpu.md]
    python bench/gpu.py --list      what would be measured, and the bars
    python bench/gpu.py --dry       the same with a tiny model and short rows, on any machine: nothing to compare

Each measurement is one `luthier bench train` with its arms one after another, since a GPU holds only one model of this
size; its result is a file in the folder, and what is there is not measured again, so a command that was stopped goes
on. An arm that fails, for want of a package or of memory, says why and leaves the others their numbers. Models have
random weights of the published shapes and lie in the folder: 16 GB for the largest. One JSON document on standard
output: `measurements`, each with its `arms` and `bars`.
"""

import argparse
import json
import sys
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.pipeline.speed import Asked, measure, table

GIB = 1 << 30
TINY = {"shape": "2M", "longest": 64, "rounds": 1, "seconds": 0.2}
PEERS = ("trl-tuned", "trl-liger", "unsloth", "plain-peft")
OWN = ("luthier-fp32", "luthier-compile")
"""Exact modes; on a GPU they compute in bfloat16, as the plan would."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What the best of some arms has to reach."""

    what: str
    arms: tuple[str, ...]
    least: float | None = None
    """Tokens a second; or a ratio, where `over` is given."""
    most_bytes: int | None = None
    over: str | tuple[str, ...] | None = None
    """Arms of the same measurement, or the name of another one whose exact modes are meant."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of the comparison."""

    name: str
    asked: Asked
    arms: tuple[str, ...]
    bars: tuple[Bar, ...]


def _asked(shape: str, rows: int, **more: Any) -> Asked:
    return Asked(**{"profile": "P1", "longest": 4096, "rounds": 2, "seconds": 6.0, "apart": True} | more,
                 shape=shape, rows=rows)  # fmt: skip


ALL = PEERS + OWN
MEASUREMENTS = (
    Measurement("qwen3-0.6b", _asked("qwen3-0.6b", 4), ALL, (
        Bar("tokens a second", OWN, 120_000), Bar("no peer faster", OWN, 1.0, over=PEERS))),
    Measurement("qwen3-1.7b", _asked("qwen3-1.7b", 4), ALL, (
        Bar("tokens a second", OWN, 65_000), Bar("no peer faster", OWN, 1.0, over=PEERS))),
    Measurement("llama-8b", _asked("llama-3.1-8b", 2), (*ALL, "luthier-fp8"), (
        Bar("tokens a second", OWN, 17_500), Bar("no peer faster", OWN, 1.0, over=PEERS),
        Bar("tokens a second over a base in fp8", ("luthier-fp8",), 21_000))),
    Measurement("llama-8b-short", _asked("llama-3.1-8b", 2, longest=2048), ("luthier-fp32",), ()),
    Measurement("llama-8b-qlora", _asked("llama-3.1-8b", 2, longest=2048, tuning="qlora"),
                ("trl-tuned", "unsloth", "luthier-fp32"), (
        Bar("times LoRA over the exact base", ("luthier-fp32",), 0.95, over="llama-8b-short"),
        Bar("peak memory", ("luthier-fp32",), most_bytes=8 * GIB))),
    Measurement("llama-8b-full", _asked("llama-3.1-8b", 2, longest=2048, tuning="full", optimizer="adamw_8bit"),
                ("trl-tuned", "luthier-fp32"), (Bar("tokens a second", ("luthier-fp32",), 11_500),)),
    Measurement("qwen3-0.6b-chats", _asked("qwen3-0.6b", 32, profile="P2"), ALL, (
        Bar("no peer faster", OWN, 1.0, over=PEERS),)),
    Measurement("qwen3-0.6b-pairs", _asked("qwen3-0.6b", 8, profile="P4", longest=2048),
                ("trl-tuned", "luthier-whole-pairs", "luthier-fp32"), (
        Bar("times the peers", ("luthier-fp32",), 1.3, over=("trl-tuned",)),)),
)  # fmt: skip


def best(found: dict[str, Any], arms: tuple[str, ...], key: str = "tokens_per_second") -> float | None:
    """The best number among arms that passed their checks: the most tokens a second, or the fewest bytes."""
    numbers = [arm[key] for arm in found.get("arms", []) if arm["arm"] in arms and arm.get("passed")]
    choose = max if key == "tokens_per_second" else min
    return float(choose(numbers)) if numbers else None


def judge(bar: Bar, own: dict[str, Any], all_found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The bar, what was measured, and whether it was reached; None where there is nothing to compare."""
    if bar.most_bytes is not None:
        value = best(own, bar.arms, "peak_memory_bytes")
        reached = None if value is None else value <= bar.most_bytes
        return {"what": bar.what, "arms": bar.arms, "most": bar.most_bytes, "measured": value, "reached": reached}
    value = best(own, bar.arms)
    if bar.over is not None:
        there = all_found.get(bar.over, {}) if isinstance(bar.over, str) else own
        other = best(there, OWN if isinstance(bar.over, str) else bar.over)
        value = None if value is None or other is None else value / other
    reached = None if value is None or bar.least is None else value >= bar.least
    return {"what": bar.what, "arms": bar.arms, "least": bar.least, "measured": value, "reached": reached}


def run(one: Measurement, keep: Path, *, dry: bool) -> dict[str, Any]:
    """Measure one, or read what an earlier command measured."""
    kept = keep / f"{one.name}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    asked = replace(one.asked, **TINY) if dry else one.asked
    print(f"== {one.name}", file=sys.stderr, flush=True)
    try:
        found = measure(
            keep / asked.shape, list(one.arms), asked, lambda line: print(line, file=sys.stderr, flush=True)
        )
    except LuthierError as error:
        return {"error": f"{error.what}. {error.fix or ''}", **asdict(asked), "arms": []}
    except Exception as error:  # one that falls over leaves the others their numbers
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", **asdict(asked), "arms": []}
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def report(names: list[str], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One document of everything."""
    plans = {one.name: one for one in MEASUREMENTS}
    return {
        "measurements": [
            {"name": name, **found[name], "bars": [judge(bar, found[name], found) for bar in plans[name].bars]}
            for name in names
        ]
    }


def page(document: dict[str, Any]) -> str:
    """As Markdown."""
    lines = []
    for one in document["measurements"]:
        lines += [f"## {one['name']}", ""]
        lines += [f"Failed: {one['error']}", ""] if "error" in one else [f"{one['machine']}", "", table(one)]
        for bar in one["bars"]:
            said = {True: "reached", False: "NOT reached", None: "not measured"}[bar["reached"]]
            bound = f">= {bar['least']:,}" if bar.get("least") is not None else f"<= {bar['most'] / GIB:.1f} GiB"
            measured = "" if bar["measured"] is None else f", measured {bar['measured']:,.2f}"
            lines.append(f"- {bar['what']} {bound} ({', '.join(bar['arms'])}): {said}{measured}")
        lines.append("")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, default=Path("bench-gpu"))
    parser.add_argument("--only")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args(given)
    names = options.only.split(",") if options.only else [one.name for one in MEASUREMENTS]
    if unknown := set(names) - {one.name for one in MEASUREMENTS}:
        sys.exit(f"no measurement is called {', '.join(sorted(unknown))}; see --list")
    chosen = [one for one in MEASUREMENTS if one.name in names]
    if options.list:
        print(json.dumps([asdict(one) for one in chosen], indent=1))
        return
    import torch

    if not torch.cuda.is_available() and not options.dry:
        sys.exit("there is no GPU; --dry runs the same with a tiny model")
    options.keep.mkdir(parents=True, exist_ok=True)
    found = {one.name: run(one, options.keep, dry=options.dry) for one in chosen}
    document = report([one.name for one in chosen], found)
    if options.table:
        options.table.write_text(page(document), encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
