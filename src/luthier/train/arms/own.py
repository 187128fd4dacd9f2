"""Luthier's arms: its own loop, as `luthier train` runs it, and the plain computation that all arms are held to."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from luthier import events
from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.fast_lora import make_fast
from luthier.models.load import DTYPES, training_dtype
from luthier.models.tuning import causal_model, untuned
from luthier.recipe import Dpo, Sft
from luthier.train.arms.turns import Turns
from luthier.train.arms.work import PAD, Work
from luthier.train.forward import Forward, add_reference, spread, together
from luthier.train.loop import LoopSettings, train
from luthier.train.objectives import OBJECTIVES
from luthier.train.parallel import Parallel
from luthier.train.source import Settled

NEVER = 1 << 40


def own(work: Work, turns: Turns, model: Any) -> None:
    """Luthier's loop on the work's updates, rows packed into passes of at most `work.micro_tokens`."""
    objective = OBJECTIVES["dpo" if work.pairs else "sft"](Dpo(kind="dpo") if work.pairs else Sft())
    make_fast(model)
    settings = LoopSettings(
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
        compute=DTYPES[training_dtype("auto")],
        pad=PAD,
        seed=work.seed,
    )
    rows, group = work.rows, objective.group
    place = next(model.parameters()).device
    if objective.reference:
        forward = Forward(packed=True, pad=PAD, compute=settings.compute, device=place)
        rows = add_reference(
            model, rows, forward, work.micro_tokens, Parallel(), work.folder / f"reference-{turns.name}.safetensors"
        )
    lengths = together(rows.lengths.tolist(), group)
    updates = []
    for update in work.updates:
        first = update[0] // group
        fitted = best_fit(lengths[first : first + len(update) // group], work.micro_tokens)
        updates.append([spread([first + i for i in part], group) for part in fitted])
    folder = work.folder / turns.name
    folder.mkdir(exist_ok=True)
    turns.watch(model)
    turns.ready()
    log = events.Log(folder / "events.jsonl")
    source = Settled(rows, rows, updates * 1000)
    train(model, objective, source, settings, folder, log, lambda step: turns.step(step.loss))


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
    end = (batch.documents or [0, 0])[1]

    def hidden() -> torch.Tensor:
        found: torch.Tensor = causal.base_model(
            input_ids=batch.ids, position_ids=batch.positions, documents=batch.documents, use_cache=False
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


OWN: dict[str, Callable[[Work, Turns, Any], None]] = {
    "reference": reference,
    "luthier-fp32": own,
}
"""Arm -> what it does until it is told to end."""
