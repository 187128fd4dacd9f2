"""The decision: a pure function of recipe, dataset facts, model facts and hardware.

    a base of up to 20 million      all weights
    fewer than 1,000 rows            adapters with early stopping; over a 4-bit base where a GPU holds a large model
    1,000 to 100,000 rows            adapters
    more, and all weights fit        all weights, shared out (FSDP) where one device does not hold them

What was decided is then made to fit: smaller passes, then recomputed activations, then a 4-bit base.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.errors import RecipeError
from luthier.models.facts import ModelFacts
from luthier.plan.compute import flops_per_token, forward_flops, speed
from luthier.plan.hardware import Hardware
from luthier.plan.memory import Setting, memory_parts
from luthier.plan.rates import default_rate, warn_rate
from luthier.recipe import Auto, Full, Lora, Qlora, Recipe, Tuning
from luthier.recipe.training import PATIENCE

TINY = 20e6
"""Parameters up to which all weights are trained: adapters of such a base would save nothing worth having."""
FEW_ROWS = 1_000
MANY_ROWS = 100_000
LARGE = 1e9
"""Parameters from which quantising the base of a GPU run is worth the rounding."""
RANKS = (8, 16, 32, 64, 128)
UPDATES_AN_EPOCH = 40
BATCH_TOKENS = (1_024, 16_384)
MICRO_TOKENS = {"cpu": 4_096, "gpu": 16_384}
COMPILING = {"cpu": (120, 0.05), "gpu": (60, 0.15)}
"""Seconds that compiling the blocks takes, and the share of a step that it saves: on a CPU as measured
(docs/performance.md), on a GPU as others publish (torchtune: 27 % more tokens a second, Axolotl: 14 to 19 % less)."""
SAMPLED = ("ppo", "grpo", "rloo", "online_dpo")
"""Objectives that spend their time sampling, which compiled blocks do not speed up."""
FULL = 0.95
"""Share of the memory that a run may take by the estimate."""

Count = Callable[[Tuning], int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run. Memory in bytes on one device, time in seconds (None where nothing is known of the device)."""

    tuning: Tuning
    reasons: list[str]
    warnings: list[str]
    changes: list[str]
    trainable_parameters: int
    total_parameters: int
    dtype: str
    learning_rate: float
    batch_tokens: int
    micro_batch_tokens: int
    packing: bool
    recompute: int
    cheap: int
    compile: bool
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


@dataclass(slots=True)
class _Decision:
    """What all steps of the decision look at, and what they find."""

    recipe: Recipe
    dataset: Mapping[str, Any]
    facts: ModelFacts
    hardware: Hardware
    dtype: str
    count: Count
    reasons: list[str]

    @property
    def train(self) -> Mapping[str, Any]:
        """The facts of the training rows."""
        part: Mapping[str, Any] = self.dataset["train"]
        return part

    @property
    def labelled(self) -> float:
        """Share of the tokens that are trained."""
        if self.recipe.objective.kind == "text":
            return 1.0
        return float(self.train["trained_tokens"] / max(1, self.train["tokens"]))

    @property
    def length(self) -> float:
        """Tokens of a row, on average."""
        return float(self.train["tokens"] / max(1, self.train["rows"]))

    def room(self, world: int) -> int:
        """Memory of one device, in bytes; processes without a GPU share the machine's."""
        return self.hardware.gpus[0].memory if self.hardware.gpus else self.hardware.memory // world

    def setting(self, tuning: Tuning, micro: int, again: tuple[int, int], world: int, parallel: str) -> Setting:
        """A setting of the memory model."""
        optimizer, gpu, goal = self.recipe.training.optimizer, bool(self.hardware.gpus), self.recipe.objective
        taken_apart = getattr(tuning, "init", "zero") in ("pissa", "olora")
        whole = tuning.kind in ("full", "freeze") or taken_apart
        return Setting(
            tuning,
            self.count(tuning),
            self.dtype,
            micro,
            self.labelled,
            again[0],
            optimizer,
            gpu,
            world,
            parallel,
            again[1],
            self.length,
            critic=goal.kind == "ppo",
            beside=whole and (goal.kind == "online_dpo" or (goal.kind in SAMPLED and bool(getattr(goal, "kl", 0.0)))),
        )


def decide(
    recipe: Recipe,
    dataset: Mapping[str, Any],
    facts: ModelFacts,
    hardware: Hardware,
    dtype: str,
    count: Count,
    notes: Sequence[str] = (),
) -> Plan:
    """Decide what the recipe leaves open.

    Args:
        recipe: what is wanted.
        dataset: the `facts.json` of the dataset.
        facts: of the base model.
        hardware: of this machine.
        dtype: number format of the weights in training.
        count: gives the exact number of parameters that a tuning trains.
        notes: what else was found of the machine and is worth saying.

    Raises:
        RecipeError: what the recipe asks for cannot fit, or is not there.
    """
    d = _Decision(recipe, dataset, facts, hardware, dtype, count, [*notes, *_row_notes(dataset)])
    world = _devices(d)
    tuning = _tuning(d, world)
    check_bits(tuning, facts)
    tokens = d.train["tokens"] + _replay_tokens(recipe, dataset)
    batch = recipe.training.batch_tokens or _batch_tokens(tokens, d.reasons)
    longest = max(dataset["train"]["longest"], dataset["validation"]["longest"])
    micro = _micro(d, batch, longest, world)
    tuning, setting, memory = _fit(d, tuning, micro, longest, world)
    _fits(d, memory["total"], tuning, world)
    trainable = count(tuning)
    rate = recipe.training.learning_rate or _rate(d, tuning)
    flops = flops_per_token(facts, tuning, trainable, length=d.length, labelled=d.labelled)
    d.reasons.append(_length_reason(recipe))
    warning = warn_rate(tuning.kind, rate)
    seconds = _seconds(d, flops, tokens, world)
    return Plan(
        tuning=tuning,
        reasons=d.reasons,
        warnings=[warning] if warning else [],
        changes=[],
        trainable_parameters=trainable,
        total_parameters=facts.total + (0 if tuning.kind in ("full", "freeze") else trainable),
        dtype=dtype,
        learning_rate=rate,
        batch_tokens=batch,
        micro_batch_tokens=setting.tokens,
        packing=recipe.training.packing,
        recompute=setting.recompute,
        cheap=setting.cheap,
        compile=_compiles(d, seconds, setting.cheap / facts.layers),
        processes=world,
        parallel=setting.parallel,
        memory=memory,
        memory_available=d.room(world),
        flops_per_token=flops,
        seconds=seconds,
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


def _devices(d: _Decision) -> int:
    """How many processes train."""
    asked, there = d.recipe.training.devices, len(d.hardware.gpus)
    if asked is None:
        if there > 1:
            d.reasons.append(f"all {there} GPUs train; training.devices=1 takes one")
        return max(1, there)
    if there and asked > there:
        raise RecipeError(
            f"training.devices asks for {asked} GPUs and this machine has {there}",
            where="training.devices",
            fix=f"training.devices={there}, or leave it out",
        )
    if not there and asked > d.hardware.cores:
        raise RecipeError(
            f"training.devices asks for {asked} processes and this machine has {d.hardware.cores} cores and no GPU",
            where="training.devices",
            fix=f"training.devices={d.hardware.cores} or fewer; one process uses all cores already",
        )
    return asked


def _tuning(d: _Decision, world: int) -> Tuning:
    """The decision tree."""
    rows, gpus, facts, reasons = d.train["rows"], d.hardware.gpus, d.facts, d.reasons
    if not isinstance(d.recipe.tuning, Auto):
        reasons.append(f"the recipe asks for {d.recipe.tuning.kind}")
        return d.recipe.tuning
    if facts.total <= TINY:
        reasons.append(f"a base of {facts.total / 1e6:.1f} million parameters is small enough to train all of them")
        return Full(kind="full")
    if rows < FEW_ROWS:
        if gpus and facts.total > LARGE and not facts.odd and world == 1:
            reasons.append(f"{rows:,} rows are few: a 4-bit base with adapters overfits least and needs least memory")
            return Qlora(kind="qlora", rank=_rank(d, Qlora(kind="qlora")))
        where = "on a CPU 4 bits save memory, not time" if not gpus else "the model is small enough as it is"
        reasons.append(f"{rows:,} rows are few: adapters, with early stopping; {where}, so the base is not quantised")
        return Lora(kind="lora", rank=_rank(d, Lora(kind="lora")))
    if rows > MANY_ROWS:
        full = Full(kind="full")
        kinds = ("one",) if world == 1 else ("ddp", "fsdp")
        if any(_total(d, full, 4096, world, kind) < FULL * d.room(world) for kind in kinds):
            reasons.append(f"{rows:,} rows are enough to train all weights, and they fit")
            return full
    reasons.append(f"{rows:,} rows: adapters reach what full training would, at a fraction of the memory")
    return Lora(kind="lora", rank=_rank(d, Lora(kind="lora")))


def _rank(d: _Decision, tuning: Lora) -> int:
    """The least rank whose parameters can hold what there is to learn.

    An adapter holds about two bits a parameter, and a trained token brings about one (Schulman et al. 2025, "LoRA
    Without Regret"; Allen-Zhu & Li 2024, arXiv:2404.05405).
    """
    trained = d.train["trained_tokens"]
    each = d.count(tuning.model_copy(update={"rank": 1}))
    rank = next((rank for rank in RANKS if 2 * rank * each >= trained), RANKS[-1])
    rank = max(rank, 16)
    d.reasons.append(f"rank {rank}: {rank * each:,} parameters for {trained:,} trained tokens, about a bit each")
    return rank


def _micro(d: _Decision, batch: int, longest: int, world: int) -> int:
    """Tokens of one forward pass on one device, as far as memory allows."""
    asked = d.recipe.training.micro_batch_tokens
    micro = min(-(-batch // world), asked or MICRO_TOKENS["gpu" if d.hardware.gpus else "cpu"])
    if longest > micro:
        d.reasons.append(f"the longest row has {longest:,} tokens, so one forward pass holds up to that many")
        return int(longest)
    return micro


def _total(d: _Decision, tuning: Tuning, micro: int, world: int, parallel: str) -> int:
    return memory_parts(d.facts, d.setting(tuning, micro, (0, 0), world, parallel))["total"]


def _fit(d: _Decision, tuning: Tuning, micro: int, longest: int, world: int) -> tuple[Tuning, Setting, dict[str, int]]:
    """The first setting that fits: as planned, in smaller passes, with recomputation, in shares, in 4 bits."""
    least = micro if d.recipe.training.micro_batch_tokens else min(micro, longest)
    asked = d.recipe.training.memory
    kinds = [d.recipe.training.parallel] if d.recipe.training.parallel else ["ddp", "fsdp"]
    kinds = ["one"] if world == 1 else [k for k in kinds if not (k == "fsdp" and isinstance(tuning, Qlora))]
    tried = [
        (kind, again, tokens)
        for kind in kinds
        for again in _again(d.facts.layers, asked)
        for tokens in _halves(micro, least)
    ]
    for number, (kind, again, tokens) in enumerate(tried):
        setting = d.setting(tuning, tokens, again, world, str(kind))
        memory = memory_parts(d.facts, setting)
        if memory["total"] <= FULL * d.room(world) or number == len(tried) - 1:
            break
    over = memory["total"] > FULL * d.room(world)
    if over and isinstance(d.recipe.tuning, Auto) and not isinstance(tuning, Qlora) and not d.facts.odd:
        d.reasons.append("the base does not fit as it is: it is held in 4 bits")
        return _fit(d, Qlora(kind="qlora", rank=getattr(tuning, "rank", 16)), micro, longest, world)
    if not over and setting.tokens < micro:
        d.reasons.append(f"{setting.tokens:,} tokens in one forward pass, not {micro:,}: so it fits")
    if not over and asked is None and (setting.recompute or setting.cheap):
        d.reasons.append(_again_reason(setting, d.facts.layers))
    if world > 1:
        what = "each holds everything, gradients are averaged" if setting.parallel == "ddp" else "each holds a share"
        d.reasons.append(f"{world} processes with {setting.parallel}: {what}")
    return tuning, setting, memory


def _again(layers: int, asked: str | None) -> list[tuple[int, int]]:
    """How many blocks compute everything again, and how many their cheap parts: from least work to most."""
    if asked is not None:
        return [(layers, 0) if asked == "lean" else (0, 0)]
    half = layers // 2
    return [(0, 0), (0, half), (0, layers), (half, layers - half), (layers, 0)]


def _again_reason(setting: Setting, layers: int) -> str:
    whole, cheap = setting.recompute, setting.cheap
    said = [f"{whole} of {layers} blocks everything"] if whole else []
    said += [f"{cheap} of {layers} blocks norms and activations"] if cheap else []
    return f"activations are computed again in the backward pass, in {' and in '.join(said)}: more work, so it fits"


def _halves(micro: int, least: int) -> list[int]:
    sizes = [micro]
    while sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // 2))
    return sizes


def check_bits(tuning: Tuning, facts: ModelFacts) -> None:
    """Refuse 4 bits where layers do not divide into the values that share a scale.

    Raises:
        RecipeError: so it is, with the layers' names.
    """
    if isinstance(tuning, Qlora) and tuning.bits == 4 and facts.odd:
        raise RecipeError(
            f"4 bits need layers whose input divides by 64, and here it does not in {', '.join(facts.odd)}",
            where="tuning.kind",
            fix="tuning.kind=lora, or tuning.bits=8",
        )


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


def _rate(d: _Decision, tuning: Tuning) -> float:
    rate = default_rate(tuning.kind, d.recipe.objective.kind, d.facts.hidden)
    what = f"{tuning.kind} with {d.recipe.objective.kind}"
    d.reasons.append(f"learning rate {rate:g}: what {what} wants at a width of {d.facts.hidden}")
    return rate


def _length_reason(recipe: Recipe) -> str:
    training = recipe.training
    rise = f"the rate rises over the first {training.warmup:.0%} of the updates" if training.warmup else "no warm-up"
    if recipe.objective.kind in SAMPLED and training.patience is None:
        return f"{training.epochs:g} passes over the prompts, unless the held-out judge ends them; {rise}"
    stop = f"training ends early after {training.patience or PATIENCE} validations without a better one"
    return f"at most {training.epochs:g} passes over the rows: {stop}; {rise}"


def _fits(d: _Decision, needed: int, tuning: Tuning, world: int) -> None:
    room = d.room(world)
    if needed > FULL * room:
        there = "this machine has" if d.hardware.gpus or world == 1 else "each process has"
        raise RecipeError(
            f"{tuning.kind} needs about {needed / 1e9:.1f} GB and {there} {room / 1e9:.1f} GB",
            where="plan",
            fix="tuning.kind=qlora, or a smaller training.micro_batch_tokens or model",
        )
    d.reasons.append(f"about {needed / 1e9:.2f} GB of {room / 1e9:.0f} GB are needed")


def _compiles(d: _Decision, seconds: float | None, plain: float) -> bool:
    """Whether compiling the blocks is worth its time; a share of them computes cheap parts again and stays plain."""
    asked, fresh = d.recipe.training.compile, d.recipe.objective.kind in SAMPLED
    if asked is not None or fresh or seconds is None:
        return bool(asked)
    cost, share = COMPILING["gpu" if d.hardware.gpus else "cpu"]
    share *= 1 - plain
    if share * seconds < 2 * cost:
        return False
    d.reasons.append(f"blocks are compiled: about {cost} s, to save {share:.0%} of {seconds / 60:.0f} min")
    return True


def _seconds(d: _Decision, flops: int, tokens: int, world: int) -> float | None:
    """Time of training, the reference's forward pass and KTO's mates included."""
    reached = speed(d.hardware.gpus[0].name if d.hardware.gpus else None, d.hardware.cores)
    if d.recipe.objective.kind in SAMPLED:
        d.reasons.append(
            "how long it takes is told by the first updates: answers are sampled, and nobody knows how long"
        )
        return None
    if reached is None:
        return None
    work = flops * tokens * d.recipe.training.epochs
    forward = forward_flops(d.facts, length=d.length, labelled=d.labelled) * tokens
    kind = d.recipe.objective.kind
    if kind in ("dpo", "kto"):
        work += forward
    if kind == "kto":
        work += forward * (1 + d.recipe.training.epochs)
    return work / (reached * (world if d.hardware.gpus else 1))
