"""A training run in a process of its own that dies: `python killed.py FOLDER TUNING MOMENT`, MOMENT as `step:7`.

`step:7` dies when step 7 is logged; `writing:2` amid the second checkpoint, with half a file on disk; `renamed:2` just
after it got its name. The death is SIGKILL: nothing can be tidied up.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from tiny import chat_rows, plan, settings, tuned

from luthier import events
from luthier.models.load import quiet
from luthier.recipe import Full, Lora, Qlora
from luthier.recipe import Sft as Section
from luthier.text import TokenRows
from luthier.train import checkpoint, loop
from luthier.train.batches import Update
from luthier.train.loop import LoopSettings, Outcome
from luthier.train.objectives.sft import Sft
from luthier.train.source import Settled

TUNINGS = {
    "full": Full(kind="full"),
    "lora": Lora(kind="lora", rank=4, dropout=0.3),  # the random state matters
    "qlora": Qlora(kind="qlora", rank=4, dropout=0.3),
}
STEPS = 12


def whole() -> tuple[TokenRows, list[Update], LoopSettings]:
    """What each of these runs does: 12 updates, a checkpoint at every third, a validation at every second."""
    rows = chat_rows(16)
    updates = plan(rows, epochs=10, batch=128, micro=64)[:STEPS]
    return rows, updates, settings(checkpoint_every=3, validate_every=2)


def run(model: Any, folder: Path, on_step: Any = lambda _: None, **changes: Any) -> Outcome:
    """The run in a folder, from where an earlier attempt there stands."""
    rows, updates, limits = whole()
    limits = settings(checkpoint_every=3, validate_every=2, **changes) if changes else limits
    folder.mkdir(exist_ok=True)
    log = events.Log(folder / "events.jsonl")
    return loop.train(
        model, Sft(Section()), Settled(rows, rows.select(range(4)), updates), limits, folder, log, on_step
    )


def die(*_: Any) -> None:
    """End at once, by a signal that nobody can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run until the moment to die."""
    torch.set_num_threads(1)
    quiet()
    folder, kind, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    what, _, number = moment.partition(":")
    count = 0

    def half(tensors: Any, path: Path) -> None:
        nonlocal count
        count += "optimizer" in path.name
        if count == int(number):
            path.write_bytes(b"\x10")
            die()
        plain(tensors, path)

    def named(*given: Any) -> Any:
        nonlocal count
        count += 1
        place = save(*given)
        return die() if count == int(number) else place

    plain, save = checkpoint._save, checkpoint.save_checkpoint
    if what == "writing":
        checkpoint._save = half
    elif what == "renamed":
        loop.save_checkpoint = named
    run(tuned(TUNINGS[kind]), folder, lambda step: die() if what == "step" and step.step == int(number) else None)


if __name__ == "__main__":
    main()
