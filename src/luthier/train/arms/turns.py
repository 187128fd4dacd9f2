"""How an arm takes its turns: it works while it is told to, says what each update took, and waits.

The parent writes one JSON line, {"seconds": 5.0} or {"end": true}, to the arm's standard input; the arm works for so
long, at least one update, and answers with one line on a pipe of its own.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from luthier.train.probe import measured

SAMPLED = 2_000_000
"""Most numbers of the first gradient that are compared."""


class Ended(Exception):  # noqa: N818 - not an error
    """The parent has seen enough."""


class Turns:
    """The arm's side of the conversation, and what it saw of the training."""

    def __init__(self, name: str, folder: Path, answers: int) -> None:
        self.name, self.folder = name, folder
        self.answers = os.fdopen(answers, "w", buffering=1)
        self.begun = time.monotonic()
        self.until = self.last = self.worked = 0.0
        self.steps: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.first: float | None = None
        self.names: dict[int, str] = {}
        self.norms: list[float] = []
        self.trained: dict[str, torch.nn.Parameter] = {}
        self.start = self.begun
        self.before: dict[str, torch.Tensor] = {}
        self.moved: bool | None = None
        self.facts: dict[str, Any] = {}

    def watch(self, model: torch.nn.Module) -> None:
        """Compare and measure the gradient of every update of this model, whoever makes it."""
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.names = {id(p): n for n, p in trained.items()}
        self.before = {n: p.detach().flatten()[:1000].clone() for n, p in trained.items()}
        self.facts["trainable_parameters"] = sum(p.numel() for p in trained.values())
        self.trained = trained
        register_optimizer_step_pre_hook(self._gradients)

    def _gradients(self, optimizer: Any, *_: Any) -> None:
        if len(self.norms) >= 1:
            return
        found = {
            self.names[id(p)]: p.grad.detach().float().cpu()
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None and id(p) in self.names
        }
        self.norms.append(float(torch.stack([g.norm() for g in found.values()]).norm()) if found else 0.0)
        stride = max(1, sum(g.numel() for g in found.values()) // SAMPLED)
        from safetensors.torch import save_file

        short = {_plain(n): g.flatten()[::stride].contiguous() for n, g in found.items()}
        save_file(short, self.folder / f"gradient-{self.name}.safetensors")

    def ready(self) -> None:
        """All is loaded: wait for the first turn."""
        self._await()

    def step(self, loss: float) -> None:
        """An update is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        if self.first is None:
            self.first = now - self.start
        worked = time.process_time()
        step = {"number": len(self.losses), "seconds": now - self.last, "cpu_seconds": worked - self.worked}
        self.steps.append(step)
        self.losses.append(loss)
        self.last, self.worked = now, worked
        if now >= self.until:
            self._await()

    def _await(self) -> None:
        self.say()
        line = sys.stdin.readline()
        order = json.loads(line) if line else {"end": True}
        if "end" in order:
            raise Ended
        self.last, self.worked = time.monotonic(), time.process_time()
        self.until = self.last + order["seconds"]
        if not self.losses:
            self.start = self.last

    def say(self) -> None:
        """Tell the parent what was seen since the last time."""
        if self.losses:
            self.moved = any(
                not torch.equal(p.detach().flatten()[:1000], self.before[n]) for n, p in self.trained.items()
            )
        place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        body = {
            "steps": self.steps,
            "losses": self.losses,
            "time_to_first_step": self.first,
            "peak_memory_bytes": measured(place),
            "gradient_norm": self.norms[0] if self.norms else None,
            "weights_moved": self.moved,
            **self.facts,
        }
        self.steps = []
        self.answers.write(json.dumps(body) + "\n")

    def fail(self, what: str) -> None:
        """Say why there will be no number."""
        self.answers.write(json.dumps({"error": what}) + "\n")


def _plain(name: str) -> str:
    """A parameter's name without what wrappers put before it."""
    for wrapper in ("_orig_mod.", "module.", "base_model.model."):
        name = name.replace(wrapper, "")
    return name
