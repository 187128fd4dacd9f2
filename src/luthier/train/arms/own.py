"""Luthier's arms: its own loop, as `luthier train` runs it, and the plain computation that all arms are held to."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from luthier import events
from luthier.errors import Missing
from luthier.models.attention import NAME, Documents, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.compiled import compile_blocks, compile_seconds, why_not
from luthier.models.fast_lora import make_fast
from luthier.models.fastest import speeds
from luthier.models.load import DTYPES, training_dtype
from luthier.models.rounded import round_base
from luthier.models.tuning import causal_model, untuned
from luthier.recipe import Dpo, Sft
from luthier.text import TokenRows
from luthier.train.arms.turns import Turns
from luthier.train.arms.work import PAD, Work
from luthier.train.batches import Update
from luthier.train.forward import Forward, add_reference, spread, together
from luthier.train.loop import LoopSettings, train
from luthier.train.objectives import OBJECTIVES
from luthier.train.parallel import Parallel
from luthier.train.source import Settled

NEVER = 1 << 40


@dataclass(frozen=True, slots=True)
class How:
    """A mode of Luthier."""

    base: str | None = None
    """Rounded how: `int8` or `fp8`."""
    compiles: bool = False
    shared: bool = True
    """Compute what pairs begin with once."""


def own(work: Work, turns: Turns, model: Any, how: How) -> None:
    """Luthier's loop on the work's updates, rows packed into passes of at most `work.micro_tokens`."""
    objective = OBJECTIVES["dpo" if work.pairs else "sft"](Dpo(kind="dpo") if work.pairs else Sft())
    make_fast(model)
    if how.base is not None:
        round_base(model, how.base, multiplies=speeds().multiplies_int8)
    if how.compiles:
        if reason := why_not(model, range(0)):
            raise Missing(reason, fix="install one, or leave the arm out")
        compile_blocks(model)
    place = next(model.parameters()).device
    forward = Forward(
        packed=True, pad=PAD, compute=DTYPES[training_dtype("auto")], device=place, shared=work.pairs and how.shared
    )
    rows, group = work.rows, objective.group
    if objective.reference:
        cache = work.folder / f"reference-{turns.name}.safetensors"
        rows = add_reference(model, rows, forward, work.micro_tokens, Parallel(), cache, group)
    folder = work.folder / turns.name
    folder.mkdir(exist_ok=True)
    turns.watch(model)
    turns.ready()
    log = events.Log(folder / "events.jsonl")
    source = Settled(rows, rows, _packed(work, rows, group) * 1000)
    turns.facts["loader_seconds"] = _loader(source, forward)

    def told(step: events.Step) -> None:
        if how.compiles:
            turns.facts["compile_seconds"] = compile_seconds()
        turns.step(step.loss)

    train(model, objective, source, _settings(work, forward), folder, log, told)


def _loader(source: Settled, forward: Forward) -> float:
    """Seconds that the loop takes to lay out the rows of an update, the median of all that were prepared."""
    took = []
    for number in range(len(source) // 1000):
        begun = time.perf_counter()
        rows, update = source.update(number)
        for part in update:
            forward.lay(rows, part)
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def _packed(work: Work, rows: TokenRows, group: int) -> list[Update]:
    """The work's updates in passes that hold at most so many tokens."""
    lengths = together(rows.lengths.tolist(), group)
    updates = []
    for update in work.updates:
        first = update[0] // group
        fitted = best_fit(lengths[first : first + len(update) // group], work.micro_tokens)
        updates.append([spread([first + i for i in part], group) for part in fitted])
    return updates


def _settings(work: Work, forward: Forward) -> LoopSettings:
    return LoopSettings(
        learning_rate=work.rate,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        clip=1.0,
        validate_every=NEVER,
        checkpoint_every=NEVER,
        patience=NEVER,
        packed=True,
        micro_tokens=work.micro_tokens,
        compute=forward.compute,
        pad=PAD,
        seed=work.seed,
        shared=forward.shared,
        optimizer=work.optimizer,
        read_every=1,
    )


def reference(work: Work, turns: Turns, model: Any) -> None:
    """Loss and gradient of the first update, row by row, by the model's own mask, logits and layers, in float32."""
    rows = work.rows
    turns.watch(model)
    turns.ready()
    batches = [lay_out(rows, [i], packed=False) for i in work.updates[0]]
    count = sum(len(batch.targets) for batch in batches)

    def logprob(batch: Any) -> torch.Tensor:
        logits = model(input_ids=batch.ids, use_cache=False).logits[0].float()
        return torch.log_softmax(logits, -1)[batch.sources, batch.targets].sum()

    total = 0.0
    if work.pairs:
        with torch.no_grad(), untuned(model):
            before = [logprob(batch) for batch in batches]
        for k in range(0, len(batches), 2):
            chosen, rejected = (logprob(batches[k + i]) - before[k + i] for i in (0, 1))
            loss = -F.logsigmoid(0.1 * (chosen - rejected)) / (len(batches) / 2)
            torch.autograd.backward(loss)
            total += loss.item()
    else:
        for batch in batches:
            loss = -logprob(batch) / count
            torch.autograd.backward(loss)
            total += loss.item()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0).step()
    turns.step(total)


@torch.no_grad()
def leaks(work: Work, model: Any) -> bool:
    """Whether a document of a pack sees another: changing the first must change nothing of the others."""
    batch = lay_out(work.rows, work.updates[0][:3], packed=True).to(next(model.parameters()).device)
    causal = causal_model(model.eval())
    laid = Documents(batch.documents or [0])
    end = laid.bounds[1]

    def hidden() -> torch.Tensor:
        found: torch.Tensor = causal.base_model(
            input_ids=batch.ids, position_ids=batch.positions, documents=laid, use_cache=False
        ).last_hidden_state[0]
        return found

    with attention(causal, NAME):
        before = hidden()
        batch.ids[0, :end] = (batch.ids[0, :end] + 1) % causal.config.vocab_size
        after = hidden()
    same: bool = torch.allclose(before[end:], after[end:], rtol=0, atol=1e-5)
    return not same


def matmul(work: Work, turns: Turns) -> None:
    """The ceiling: the fastest that this machine multiplies matrices right now, again in every turn."""
    gpu = work.device == "cuda"
    size, dtype = (8192, torch.bfloat16) if gpu else (2048, torch.float32)
    a, b = (torch.randn(size, size, dtype=dtype, device=work.device) for _ in range(2))
    turns.ready()
    while True:
        a @ b
        turns.step(0.0)


MODES = {
    "luthier-fp32": How(),
    "luthier-compile": How(compiles=True),
    "luthier-int8": How(base="int8"),
    "luthier-int8-compile": How(base="int8", compiles=True),
    "luthier-fp8": How(base="fp8"),
    "luthier-whole-pairs": How(shared=False),
}
"""Arm -> how it runs. On a GPU `luthier-fp32` computes in bfloat16, as the plan would."""
OWN: dict[str, Callable[[Work, Turns, Any], None]] = {
    "reference": reference,
    **{name: partial(own, how=how) for name, how in MODES.items()},
}
"""Arm -> what it does until it is told to end."""
