"""The decision: a pure function of recipe, dataset facts, model facts and hardware.

Rates when the recipe gives none:

| tuning | peak rate | source |
| --- | --- | --- |
| lora, qlora | 5e-4 x (2000 / hidden)^0.781 | Schulman et al. 2025, "LoRA Without Regret": the fit for Llama |
| full | a tenth of that | the same |
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from luthier.errors import RecipeError
from luthier.models.facts import ModelFacts
from luthier.plan.hardware import Hardware
from luthier.plan.memory import memory_parts
from luthier.recipe import Auto, Full, Lora, Qlora, Recipe, Tuning

TINY = 20e6
"""Parameters up to which all weights are trained: adapters of such a base would save nothing worth having."""
FEW_ROWS = 1_000
MANY_ROWS = 100_000
UPDATES_AN_EPOCH = 40
BATCH_TOKENS = (1_024, 16_384)
MICRO_TOKENS = {"cpu": 4_096, "gpu": 16_384}
FULL = 0.95
"""Share of the memory that a run may take by the estimate."""
CPU_FLOPS = 40e9
"""Float32 operations a second that one core reaches in training; measured, good to a factor of two."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run. Memory in bytes, time in seconds (None where nothing is known of the device)."""

    tuning: Tuning
    reasons: list[str]
    trainable_parameters: int
    total_parameters: int
    dtype: str
    learning_rate: float
    batch_tokens: int
    micro_batch_tokens: int
    packing: bool
    recompute: bool
    processes: int
    parallel: str
    memory: dict[str, int]
    memory_available: int
    flops_per_token: int
    seconds: float | None
    hardware: Hardware

    @property
    def method(self) -> str:
        """The kind of tuning."""
        return self.tuning.kind

    def to_json(self) -> dict[str, Any]:
        """The plan as one JSON object."""
        body = {
            k: v for k, v in ((name, getattr(self, name)) for name in self.__slots__) if k not in ("tuning", "hardware")
        }
        return {
            "method": self.method,
            **body,
            "tuning": self.tuning.model_dump(mode="json"),
            "hardware": asdict(self.hardware),
        }


def decide(
    recipe: Recipe,
    dataset: Mapping[str, Any],
    facts: ModelFacts,
    hardware: Hardware,
    dtype: str,
    count: Callable[[Tuning], int],
) -> Plan:
    """Decide what the recipe leaves open.

    Args:
        recipe: what is wanted.
        dataset: the `facts.json` of the dataset.
        facts: of the base model.
        hardware: of this machine.
        dtype: number format of the weights in training.
        count: gives the exact number of parameters that a tuning trains.

    Raises:
        RecipeError: what the recipe asks for cannot fit.
    """
    reasons = _row_notes(dataset)
    tuning = _tuning(recipe, dataset["train"]["rows"], facts, hardware, reasons)
    tokens = dataset["train"]["tokens"] + _replay_tokens(recipe, dataset)
    batch = recipe.training.batch_tokens or _batch_tokens(tokens, reasons)
    micro = min(batch, recipe.training.micro_batch_tokens or MICRO_TOKENS["gpu" if hardware.gpus else "cpu"])
    longest = max(dataset["train"]["longest"], dataset["validation"]["longest"])
    if longest > micro:
        reasons.append(f"the longest row has {longest:,} tokens, so one forward pass holds up to that many")
        micro = longest
    available = _room(hardware)
    fixed = recipe.training.micro_batch_tokens is not None
    micro, memory = _shrink(facts, tuning, count, dtype, micro, micro if fixed else longest, available, reasons)
    if memory["total"] > FULL * available and isinstance(recipe.tuning, Auto) and not isinstance(tuning, Qlora):
        tuning = Qlora(kind="qlora")
        reasons.append("the base does not fit as it is: it is held in 4 bits")
        micro, memory = _shrink(facts, tuning, count, dtype, micro, micro, available, reasons)
    _fits(memory["total"], available, tuning, reasons)
    trainable = count(tuning)
    rate = recipe.training.learning_rate or _rate(tuning, facts, reasons)
    flops = _flops(facts, tuning, trainable)
    passes = tokens * recipe.training.epochs
    return Plan(
        tuning=tuning,
        reasons=reasons,
        trainable_parameters=trainable,
        total_parameters=facts.total,
        dtype=dtype,
        learning_rate=rate,
        batch_tokens=batch,
        micro_batch_tokens=micro,
        packing=recipe.training.packing,
        recompute=False,
        processes=1,
        parallel="one",
        memory=memory,
        memory_available=available,
        flops_per_token=flops,
        seconds=None if hardware.gpus else flops * passes / (CPU_FLOPS * hardware.cores),
        hardware=hardware,
    )


def _row_notes(dataset: Mapping[str, Any]) -> list[str]:
    """What has to be known of the rows: texts that are trained whole, and what a shorter limit would cost."""
    notes: list[str] = []
    if whole := dataset.get("whole_texts"):
        notes.append(f"{whole:,} plain texts hold no conversation of this model: all of each is trained")
    lengths = dataset.get("lengths") or {}
    best = lengths.get("suggested")
    longest = dataset["train"]["longest"]
    if best and best < longest / 2:
        lost = next(cost for cost in lengths["costs"] if cost["limit"] == best)
        notes.append(f"data.max_length={best} would lose {lost['rows']:,} rows; the longest has {longest:,} tokens")
    return notes


def _tuning(recipe: Recipe, rows: int, facts: ModelFacts, hardware: Hardware, reasons: list[str]) -> Tuning:
    """The decision tree."""
    if not isinstance(recipe.tuning, Auto):
        reasons.append(f"the recipe asks for {recipe.tuning.kind}")
        return recipe.tuning
    if facts.total <= TINY:
        reasons.append(f"a base of {facts.total / 1e6:.1f} million parameters is small enough to train all of them")
        return Full(kind="full")
    if rows < FEW_ROWS:
        if hardware.gpus and facts.total > 1e9:
            reasons.append(f"{rows:,} rows are few: a 4-bit base with adapters overfits least and needs least memory")
            return Qlora(kind="qlora")
        where = "on a CPU 4 bits save memory, not time" if not hardware.gpus else "the model is small enough as it is"
        reasons.append(f"{rows:,} rows are few: adapters, with early stopping; {where}, so the base is not quantised")
        return Lora(kind="lora")
    if rows > MANY_ROWS and memory_parts(facts, "full", facts.total, "float32", 4096)["total"] < _room(hardware):
        reasons.append(f"{rows:,} rows are enough to train all weights, and they fit")
        return Full(kind="full")
    reasons.append(f"{rows:,} rows: adapters reach what full training would, at a fraction of the memory")
    return Lora(kind="lora")


def _shrink(
    facts: ModelFacts,
    tuning: Tuning,
    count: Callable[[Tuning], int],
    dtype: str,
    micro: int,
    least: int,
    available: int,
    reasons: list[str],
) -> tuple[int, dict[str, int]]:
    """The tokens of one forward pass, halved until the run fits or a row would not; and the memory that it needs."""
    trainable, asked = count(tuning), micro
    memory = memory_parts(facts, tuning.kind, trainable, dtype, micro)
    while memory["total"] > FULL * available and micro > least:
        micro = max(least, micro // 2)
        memory = memory_parts(facts, tuning.kind, trainable, dtype, micro)
    if micro < asked:
        reasons.append(f"{micro:,} tokens in one forward pass, not {asked:,}: so it fits")
    return micro, memory


def _room(hardware: Hardware) -> int:
    return hardware.gpus[0].memory if hardware.gpus else hardware.memory


def _replay_tokens(recipe: Recipe, dataset: Mapping[str, Any]) -> int:
    """Tokens of the replay rows that one pass over the user's rows brings along."""
    replay = dataset.get("replay")
    if recipe.data.replay is None or not replay:
        return 0
    share = recipe.data.replay.share
    trained = share / (1 - share) * dataset["train"]["trained_tokens"]
    return int(trained * replay["tokens"] / max(1, replay["trained_tokens"]))


def _batch_tokens(tokens: int, reasons: list[str]) -> int:
    low, high = BATCH_TOKENS
    batch = min(high, max(low, tokens // UPDATES_AN_EPOCH))
    reasons.append(f"{batch:,} tokens an update: about {max(1, round(tokens / batch))} updates an epoch")
    return batch


def _rate(tuning: Tuning, facts: ModelFacts, reasons: list[str]) -> float:
    adapter = 5e-4 * (2000 / facts.hidden) ** 0.781
    rate = float(f"{adapter if tuning.kind != 'full' else adapter / 10:.2g}")
    reasons.append(f"learning rate {rate:g}: what {tuning.kind} wants at a width of {facts.hidden}")
    return rate


def _fits(needed: int, available: int, tuning: Tuning, reasons: list[str]) -> None:
    if needed > FULL * available:
        raise RecipeError(
            f"{tuning.kind} needs about {needed / 1e9:.1f} GB and this machine has {available / 1e9:.1f} GB",
            where="plan",
            fix="tuning.kind=qlora, or a smaller training.micro_batch_tokens or model",
        )
    reasons.append(f"about {needed / 1e9:.2f} GB of {available / 1e9:.0f} GB are needed")


def _flops(facts: ModelFacts, tuning: Tuning, trainable: int) -> int:
    """Floating-point operations per token, forward and backward: a frozen weight's gradient is not computed."""
    forward = 2 * (facts.linear + facts.vocabulary * facts.hidden)
    return 3 * forward if tuning.kind == "full" else 2 * forward + 6 * trainable
