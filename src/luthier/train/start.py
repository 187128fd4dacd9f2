"""What a run that learns from rewards begins with: prompts, critic, reference, reward models, whoever writes."""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
from pydantic import TypeAdapter

from luthier import events
from luthier.artifact import write_text
from luthier.errors import DataError, RecipeError
from luthier.evaluate.items import Item
from luthier.models.attention import NAME
from luthier.models.base import find_base
from luthier.models.load import DTYPES, DtypeName, device, load_model
from luthier.models.roles import add_critic, add_scorer, quiet_dropout
from luthier.models.scoring import Apart, Beside, open_classifier, row_scores
from luthier.models.tuned import load_tuned
from luthier.models.tuning import MUTATING, WHOLE, causal_model, quantisation, tune, untuned
from luthier.recipe import Model, ModelReward, Policy, ScorerReward, Tuning
from luthier.runs import open_run, run_folder
from luthier.text import TokenRows, render_prompt, stop_ids
from luthier.text.tokenizer import Tokenizer
from luthier.train.forward import Forward
from luthier.train.monitors import to_report
from luthier.train.objectives import PolicyObjective
from luthier.train.objectives.grpo import Grpo
from luthier.train.parallel import Parallel
from luthier.train.rewards import Place, Rewards, judged_by_rows, make_rewards
from luthier.train.rollout import Judges, Prompt, Rollouts, Setting, need_prompts
from luthier.train.sampler import InProcess, WithVllm
from luthier.types import Example, Message

if TYPE_CHECKING:
    from luthier.train.fit import Job

ROOM = 1.25
"""An answer may be this much longer than the rows' longest one, unless the recipe says how long."""
LOOKS = 10
"""Validations of a run at least, unless the recipe says how often."""
NORMALISED_ON = 256
"""Answers of the dataset over which a reward model without numbers of its own is normalised."""
NORMALISATION = "normalisation.json"
SAMPLED_TOKENS = 32_768
"""Tokens of prompts and answers that are sampled together."""
HOW_TO_JUDGE = ScorerReward(kind="scorer", scorer="f1")
"""What held-out answers are judged by when the recipe does not say."""


def rollouts(
    job: "Job",
    model: Any,
    objective: PolicyObjective,
    tokenizer: Tokenizer,
    log: events.Log,
    parallel: Parallel,
    *,
    packed: bool,
) -> Rollouts:
    """Make everything ready for the first rollout.

    Raises:
        RecipeError: a reward is not what the recipe says.
        DataError: there is nothing to ask.
    """
    section, dtype = objective.section, _dtype(job)
    quiet_dropout(model)
    examples, held_out = (_examples(job.dataset / f"{side}.jsonl") for side in ("train", "validation"))
    room = section.max_new_tokens or _room(examples, tokenizer)
    prompts = _prompts(examples, tokenizer, job.base.context - room, log)
    asked = _prompts(held_out[: section.held_out_prompts], tokenizer, job.base.context - room, log)
    need_prompts(prompts, str(job.dataset / "train.jsonl"), 1)
    need_prompts(asked, str(job.dataset / "validation.jsonl"), 1)
    if isinstance(objective, Grpo):
        objective.room = room
    opened = _Opened(job, model, tokenizer, examples)
    place = Place(job.home, room, job.recipe.evaluate.unsafe_code, opened)
    rewards = make_rewards(section.rewards, place)
    judge = _judge(section, rewards, asked, place)
    if objective.critic:
        add_critic(model, job.recipe.seed, lambda: _own_critic(job))
    stop = stop_ids(tokenizer, job.base.stop_ids)
    if section.sampler == "vllm":
        sampler: Any = WithVllm(model, tokenizer, job.base, stop, room, section.temperature)
    else:
        sampler = InProcess(model, tokenizer, stop, room, section.temperature, SAMPLED_TOKENS)
    each = section.passes * section.minibatches
    count = math.ceil(job.recipe.training.epochs * len(prompts) / section.prompts) * each
    count = min(count, job.recipe.training.max_steps or count)
    setting = Setting(
        forward=Forward(packed, tokenizer.pad_token_id or 0, DTYPES[job.plan["dtype"]], device()),
        micro_tokens=job.plan["micro_batch_tokens"],
        seed=job.recipe.seed,
        updates=count,
        every=each * max(1, round(count / each / LOOKS)),
        more=job.recipe.training.validate_every is None,
        room=room,
    )
    return Rollouts(
        model,
        objective,
        prompts,
        asked,
        sampler,
        Judges(rewards, judge, judge is rewards),
        _reference(job, model, dtype, needed=objective.anchored),
        setting,
        log,
        parallel,
    )


def _judge(section: Policy, rewards: Rewards, asked: Sequence[Prompt], place: Place) -> Rewards:
    """What held-out answers are judged by: what the recipe says, exact rewards themselves, or word overlap."""
    if section.held_out:
        return make_rewards(section.held_out, place)
    if judged_by_rows(section.rewards):
        return rewards
    if not all(prompt.item.expected for prompt in asked):
        raise RecipeError(
            "held-out prompts have no answer that a judge could compare with",
            where="objective.held_out",
            fix="say by what held-out answers are judged, and let it be none of the rewards: a scorer, a reward model, "
            "a function of yours",
        )
    return make_rewards((HOW_TO_JUDGE,), place)


def _dtype(job: "Job") -> DtypeName:
    planned: DtypeName = job.plan["dtype"]
    return "float32" if job.tuning.kind in WHOLE else planned


def _examples(path: Path) -> list[Example]:
    """The conversations of one side of the dataset."""
    with path.open(encoding="utf-8") as file:
        examples = [Example.from_json(json.loads(line)) for line in file]
    found = [example for example in examples if example.messages and example.messages[-1].role == "assistant"]
    if not found:
        raise DataError("there is no conversation to take prompts from", where=str(path), fix="give prompts")
    return found


def _room(examples: Sequence[Example], tokenizer: Tokenizer) -> int:
    answers = [example.messages[-1].content for example in examples]
    if not any(answers):
        raise RecipeError(
            "the prompts have no answers that would tell how long an answer may be",
            where="objective.max_new_tokens",
            fix="say how many tokens: objective.max_new_tokens=200",
        )
    encoded = tokenizer.backend_tokenizer.encode_batch(answers, add_special_tokens=False)
    return int(ROOM * max(len(one.ids) for one in encoded)) + 4


def _prompts(examples: Sequence[Example], tokenizer: Tokenizer, most: int, log: events.Log) -> list[Prompt]:
    """What stands before the last answer of each; what leaves no room for an answer is left out and counted."""
    found = []
    for example in examples:
        ids = render_prompt(example.messages[:-1], tokenizer, tools=example.tools or None)
        if len(ids) <= most:
            item = Item(example.where, example.messages[:-1], example.messages[-1].content)
            found.append(Prompt(ids, item))
    if len(found) < len(examples):
        log.write(
            events.Warned(
                f"{len(examples) - len(found)} of {len(examples)} prompts are longer than {max(0, most)} tokens, which "
                "leaves no room for an answer; they are not asked"
            )
        )
    return found


def _own_critic(job: "Job") -> Any:
    """A second model, with a score, trained in the way of the first."""
    own = tune(load_model(job.base, _dtype(job), scores=True), job.tuning, job.recipe.seed)
    quiet_dropout(own)
    return own


def _reference(job: "Job", model: Any, dtype: DtypeName, *, needed: bool) -> Callable[[], Any] | None:
    """A context that gives the model before training: adapters off, or, where it is needed, a second, frozen model."""
    if isinstance(model, peft.PeftModel) and getattr(job.tuning, "init", None) not in MUTATING:
        return lambda: untuned(model)
    if hasattr(model, "bottlenecks"):
        return lambda: untuned(model)
    if not needed:
        return None
    before: Any = load_model(job.base, dtype, quantise=quantisation(job.tuning)).requires_grad_(False)
    before.set_attn_implementation(NAME)
    quiet_dropout(before)

    @contextmanager
    def frozen() -> Iterator[Any]:
        yield before

    return frozen


class _Opened:
    """Opens reward models, each once, with what brings its scores to mean 0 and spread 1."""

    def __init__(self, job: "Job", model: Any, tokenizer: Tokenizer, examples: Sequence[Example]) -> None:
        self.job, self.model, self.tokenizer, self.examples = job, model, tokenizer, examples
        self.known: dict[tuple[str, str | None], tuple[Any, dict[str, float] | None]] = {}
        self.scales: dict[str, dict[str, float]] = {}

    def __call__(self, section: ModelReward) -> tuple[list[Any], list[Any]]:
        members, scales = [], []
        for name in section.models:
            if (name, section.label) not in self.known:
                self.known[name, section.label] = self._open(name, section.label)
            scorer, numbers = self.known[name, section.label]
            members.append(scorer)
            if section.normalise:
                numbers = numbers or self._measured(scorer)
                self.scales[name] = numbers
            scales.append(Scale(numbers["mean"], numbers["spread"]) if section.normalise and numbers else Scale())
        if self.scales:
            write_text(self.job.out / "reward_scales.json", json.dumps(self.scales, indent=1) + "\n")
        return members, scales

    def _open(self, name: str, label: str | None) -> tuple[Any, dict[str, float] | None]:
        if folder := run_folder(self.job.home / name) or run_folder(Path(name)):
            return self._of_run(folder)
        base = find_base(Model(base=name), self.job.home)
        kept = base.folder / NORMALISATION
        numbers = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
        return open_classifier(base, self.job.plan["dtype"], label), numbers

    def _of_run(self, folder: Path) -> tuple[Any, dict[str, float] | None]:
        run = open_run(folder)
        made = run.artifact("model")
        plan = run.artifact("plan").json("plan.json")
        tuning: Tuning = TypeAdapter(Tuning).validate_python(plan["tuning"])
        base = find_base(run.recipe.model, run.home)
        numbers = made.json(NORMALISATION) if NORMALISATION in made.files else None
        same = base.identity() == self.job.base.identity()
        shares = isinstance(self.model, peft.PeftModel) and self.job.tuning.kind in ("lora", "qlora")
        if same and shares and tuning.kind in ("lora", "qlora"):
            adapter = f"reward-{len(self.known)}"
            head = add_scorer(self.model, adapter, made.folder)
            return Beside(self.model, adapter, head, self.tokenizer), numbers
        model: Any = load_tuned(base, made.folder, tuning, plan["dtype"], scores=True)
        return Apart(model, base.tokenizer()), numbers

    def _measured(self, scorer: Any) -> dict[str, float]:
        """Mean and spread of the scores of the dataset's own answers."""
        some = [list(example.messages) for example in self.examples[:NORMALISED_ON]]
        return normalisation(scorer([_plain(talk) for talk in some]))


def _plain(talk: Sequence[Message]) -> list[Message]:
    return [Message(turn.role, turn.content) for turn in talk]


class Scale:
    """Brings scores to mean 0 and spread 1."""

    def __init__(self, mean: float = 0.0, spread: float = 1.0) -> None:
        self.mean, self.spread = mean, spread

    def __call__(self, score: float) -> float:
        """The score on this scale."""
        return (score - self.mean) / self.spread


def normalisation(scores: Sequence[float]) -> dict[str, float]:
    """The numbers that bring scores to mean 0 and spread 1."""
    spread = statistics.pstdev(scores)
    return {"mean": statistics.fmean(scores), "spread": spread if spread > 0 else 1.0, "answers": float(len(scores))}


def keep_scale(job: "Job", rows: TokenRows) -> None:
    """Keep with a reward model what brings its scores to mean 0 and spread 1 over chosen answers of its training."""
    model: Any = load_tuned(job.base, job.out, job.tuning, job.plan["dtype"], scores=True)
    chosen = rows.select(range(0, min(len(rows), 2 * NORMALISED_ON), 2))
    found = normalisation(row_scores(model, causal_model(model).score, chosen, packed=False))
    write_text(job.out / NORMALISATION, json.dumps(found, indent=1) + "\n")


def keep_report(source: Rollouts, out: Path) -> None:
    """Write down how both scores went, and answers from before and after, for the run's report."""
    questions = [prompt.item.prompt[-1].content for prompt in source.held_out]
    body = to_report(source.looks, questions, source.stopped)
    write_text(out / "rollouts.json", json.dumps(body, indent=1, ensure_ascii=False) + "\n")
