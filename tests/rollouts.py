"""Runs that learn from rewards, on the tiny model: their dataset, their job, and a death amid them.

`python rollouts.py FOLDER KIND TUNING STEP` is a run that SIGKILL ends when that step is logged.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import PLAN, TUNED, base, chat_rows, conversations, save, tokenizer

from luthier import events
from luthier.models.load import load_model
from luthier.models.logprobs import plain_logprobs
from luthier.models.tuning import tune
from luthier.recipe import build_recipe
from luthier.train.experience import Experience
from luthier.train.fit import Job, fit
from luthier.train.objectives import OBJECTIVES
from luthier.train.parallel import Parallel
from luthier.train.start import rollouts
from luthier.types import Example, Json

VOWELS = {"kind": "python", "path": str(Path(__file__).parent / "reward_functions.py"), "function": "vowels"}
SMALL = {"prompts": 4, "max_new_tokens": 6, "held_out_prompts": 8}
POLICIES: dict[str, Json] = {
    "ppo": {**SMALL, "kind": "ppo", "passes": 2, "minibatches": 2, "answers": 2},
    "grpo": {**SMALL, "kind": "grpo", "answers": 4, "kl": 0.05, "passes": 2},
    "rloo": {**SMALL, "kind": "rloo", "answers": 4},
}


class Death(BaseException):
    """The process ends here."""


def dataset(folder: Path, count: int = 12) -> Path:
    """A dataset of short conversations, as the stage leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, rows in (("train", count), ("validation", 8)):
        save(folder / f"{side}.safetensors", chat_rows(rows))
        talks = [Example("x", i, tuple(talk)).to_json() for i, talk in enumerate(conversations(rows))]
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    return folder


def job(folder: Path, objective: Json, tuning: str = "lora", training: Json | None = None, **plan: Any) -> Job:
    """A run over the dataset beside it; rewards are vowels unless the objective has others."""
    given = {
        "name": "t",
        "data": {"sources": [{"path": "x.jsonl"}]},
        "objective": {"rewards": [VOWELS], **objective},
        "training": {"epochs": 2, "probe": False, "warmup": 0, **(training or {})},
    }
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    data = folder / "data" if (folder / "data").exists() else dataset(folder / "data")
    rate = {"learning_rate": training["learning_rate"]} if training and "learning_rate" in training else {}
    return Job(build_recipe(given), TUNED[tuning], PLAN | rate | plan, base(), data, out, folder)


def run(task: Job, on_step: Any = lambda *_: None, parallel: Parallel = Parallel()) -> events.Log:  # noqa: B008
    """Train it and give its log."""
    log = events.Log(task.out.parent / "events.jsonl")
    fit(task, tokenizer(), log, on_step, parallel)
    return log


def mortal(folder: Path, kind: str, tuning: str) -> Job:
    """A run of six updates with a checkpoint after each, in whose rollouts something is steered."""
    objective = POLICIES[kind] | ({"kl_target": 1.0, "kl_horizon": 50} if kind == "ppo" else {})
    training = {"max_steps": 6, "checkpoint_every": 1, "validate_every": 2, "learning_rate": 2e-3}
    return job(folder, objective, tuning, training)


def ready(task: Job, packed: bool = True) -> tuple[Any, Any, Any]:
    """The model, the objective and the rollouts of a run, before its first update."""
    section = task.recipe.objective
    objective = OBJECTIVES[section.kind](section)
    model = tune(load_model(task.base, "float32"), task.tuning, task.recipe.seed)
    log = events.Log(task.out.parent / "ready.jsonl")
    return model, objective, rollouts(task, model, objective, tokenizer(), log, Parallel(), packed=packed)


def own_logprobs(model: Any, experience: Experience) -> torch.Tensor:
    """Log-probabilities of all labels from the model's own logits, row by row."""
    found = []
    for i in range(len(experience.rows)):
        row = experience.rows.row(i)
        places = [k for k, trained in enumerate(row.trained) if trained]
        ids = torch.tensor([row.ids])
        targets = torch.tensor([row.ids[k] for k in places])
        found.append(plain_logprobs(model, ids, torch.tensor(places) - 1, targets))
    return torch.cat(found)


def curve(log: events.Log) -> list[float]:
    """All numbers of a run, of every update and every look."""
    steps, looks = events.training_curve(log.path)
    return [x for s in steps for x in (s.loss, s.gradient_norm, *s.metrics.values())] + [look.loss for look in looks]


def same_end(half: Any, whole: Any, tuning: str) -> None:
    """Whether two runs saved the same bits and tell the same of themselves."""
    name = "model.safetensors" if tuning == "full" else "adapter_model.safetensors"
    found, wanted = load_file(half.out / name), load_file(whole.out / name)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert not any("critic" in key or "value" in key for key in found)  # the policy alone is saved
    assert json.loads((half.out / "rollouts.json").read_text()) == json.loads((whole.out / "rollouts.json").read_text())


def main() -> None:
    """Run until the step to die at."""
    torch.set_num_threads(1)
    folder, kind, tuning, at = sys.argv[1:]

    def die(step: events.Step, _: int) -> None:
        if step.step == int(at):
            os.kill(os.getpid(), signal.SIGKILL)

    run(mortal(Path(folder), kind, tuning), die)


if __name__ == "__main__":
    main()
