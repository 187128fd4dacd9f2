"""Learning from rewards on the bundled base: how far each objective gets, in what time, and whether gaming is stopped.

    python bench/rewards.py --seeds 3 --runs runs --out rewards.json

Runs the recipes of `recipes/rewards` seed by seed, each seed with an SFT and a reward model of its own, and those of
`recipes/preferences`; runs that are there already are not repeated. What is measured: the exact match on held-out
entries before and after (greedy, 95 % intervals), the share of the way from the SFT's score to 1, seconds of training,
and for the flawed reward how far the held-out score had fallen when the run ended. Of pairs it is the `preference`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from luthier import events
from luthier.runs import Run, open_run

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
POLICIES = ("grpo", "rloo", "ppo", "ppo-model", "gamed")
PAIRS = ("dpo",)
"""Learned from pairs, from the SFT on."""
PREFERENCES = ("preferences/dpo", "preferences/reward")
ALL = (*POLICIES, *PAIRS, *PREFERENCES)
THREADS = 1


def run(recipe: str, seed: int, runs: Path, *overrides: str) -> Run:
    """Run a recipe in a process of its own; a gate that says no does not matter here."""
    folder, _, kind = recipe.rpartition("/")
    name = f"{folder or 'rewards'}-{kind}-{seed}"
    path = RECIPES / (folder or "rewards") / f"{kind}.yaml"
    given = [str(path), f"seed={seed}", f"name={name}", *overrides]
    command = [sys.executable, "-m", "luthier", "run" if recipe == "sft" else "gate", *given, "--json"]
    done = subprocess.run([*command, "--runs", str(runs)], capture_output=True, text=True, check=False)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"{name} failed: {done.stderr[-2000:]}")
    failed = document.get("error")
    if failed and failed["kind"] != "GateFailed":
        sys.exit(f"{name} failed: {failed['what']}")
    return open_run(Path(document["run"]))


def measured(recipe: str, seed: int, done: Run) -> dict[str, Any]:
    """What a run came to: of pairs the share preferred; of rewards also how far it got, and how far it had fallen."""
    training = done.artifact("model").json("training.json")
    before, after = _both(done, "exact_match" if recipe in POLICIES else "preference")
    found = {
        "recipe": recipe,
        "seed": seed,
        "seconds": round(training["seconds"], 1),
        "updates": training["steps"],
        "before": before,
        "after": after,
        "run": done.name,
    }
    if recipe not in POLICIES:
        return found
    _, looks = events.training_curve(done.events)
    curves = {name: [look.metrics[name] for look in looks] for name in ("held_out", "greedy")}
    return found | {
        "way": (after[0] - before[0]) / (1 - before[0]),
        "curves": curves,
        "lost_at_the_end": {name: max(curve) - curve[-1] for name, curve in curves.items()},
        "stopped": training["stopped"],
    }


def _both(done: Run, metric: str) -> list[list[float]]:
    """A metric before and after, each with its interval."""
    found = (done.metrics[name] for name in (f"before/{metric}", metric))
    return [[one.value, one.low, one.high] for one in found]


def main() -> None:
    """Run, print a line each, write all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=ALL, choices=ALL)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the recipes that learn from rewards")
    asked = parser.parse_args()
    found = []
    for seed in range(asked.first, asked.first + asked.seeds):
        for recipe in (name for name in asked.only if name in PREFERENCES):
            found.append(measured(recipe, seed, run(recipe, seed, asked.runs)))
            print(json.dumps(found[-1]), flush=True)
        later = [name for name in asked.only if name not in PREFERENCES]
        if not later:
            continue
        started = time.monotonic()
        sft = f"model.base={run('sft', seed, asked.runs).folder.resolve()}"
        print(f"sft, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
        for recipe in later:
            more = [sft, *asked.set] if recipe in POLICIES else [sft]
            if recipe == "ppo-model":
                reward = run("reward", seed, asked.runs, sft)
                print(f"reward model, seed {seed}: preference {reward.metrics['preference']}", flush=True)
                more.append(f"objective.rewards=[{{kind: model, model: {reward.folder.resolve()}}}]")
            found.append(measured(recipe, seed, run(recipe, seed, asked.runs, *more)))
            print(json.dumps(found[-1]), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
