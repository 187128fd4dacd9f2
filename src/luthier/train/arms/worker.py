"""The process of one arm: `python -m luthier.train.arms.worker WORK ARM`."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luthier.errors import LuthierError
from luthier.models.base import Base
from luthier.models.load import load_model, quiet, training_dtype
from luthier.models.tuning import quantisation, tune
from luthier.recipe import Full, Lora, Qlora, Tuning
from luthier.train.arms.own import OWN, leaks, matmul
from luthier.train.arms.peers import PEERS
from luthier.train.arms.turns import Ended, Turns
from luthier.train.arms.work import Work, read_work

ARMS = OWN | PEERS
CEILING = "matmul"
TUNINGS: dict[str, Callable[[int], Tuning]] = {
    "full": lambda _: Full(kind="full"),
    "lora": lambda rank: Lora(kind="lora", rank=rank, alpha=2.0 * rank),
    "qlora": lambda rank: Qlora(kind="qlora", rank=rank, alpha=2.0 * rank),
}
"""What is trained -> the tuning, for a rank."""
MOVED = 0.01
"""Spread of the adapters' B at the start: at zero, half of the gradient would be zero, and nothing compared."""


def begin(work: Work, *, exact: bool) -> Any:
    """The model that every arm starts from, the same to the bit; `exact` in float32.

    Over a base in 4 bits, `exact` multiplies the same 4 bits in float32.
    """
    base = Base(work.shape, work.model, None, trust_remote_code=False)
    tuning = TUNINGS[work.tuning](work.rank)
    full = work.tuning == "full"
    loaded = load_model(base, "float32" if exact or full else training_dtype("auto"), quantise=quantisation(tuning))
    model = tune(loaded, tuning, work.seed)
    source = torch.Generator().manual_seed(work.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * MOVED)
    return model


def main(path: str, name: str) -> None:
    """Work until the parent has seen enough; what goes wrong is said in one line."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever libraries print does not get between
    quiet()
    work = read_work(Path(path))
    turns = Turns(name, work.folder, answers)
    try:
        with contextlib.suppress(Ended):
            if name == CEILING:
                matmul(work, turns)
            else:
                model = begin(work, exact=name == "reference")
                try:
                    ARMS[name](work, turns, model)
                finally:
                    if name.startswith("luthier") and not work.pairs and sys.exc_info()[0] is Ended:
                        turns.facts["leaks"] = leaks(work, model)
                        turns.say()
    except LuthierError as error:
        turns.fail(f"{error.what}. {error.fix or ''}")
    except Exception as error:  # a peer may fail in any way: the others still get their numbers
        traceback.print_exc()
        turns.fail(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
