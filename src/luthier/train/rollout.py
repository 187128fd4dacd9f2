"""Rollouts: the source of rows for objectives that learn from rewards.

A rollout asks the next prompts, samples answers with the policy as it is, has them rewarded, and computes under the
training forward what the objective needs of every token. It is learned in `passes` times `minibatches` updates; then
comes the next. Which prompts it asks follows from its number and the seed, so that a resumed run asks the same; the
rollout at hand lies in the checkpoint.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from luthier import events
from luthier.errors import DataError, TrainingStopped
from luthier.evaluate.items import Item
from luthier.models.attention import attention
from luthier.models.batch import Batch, best_fit
from luthier.models.logprobs import batch_logprobs
from luthier.models.roles import same_gradients
from luthier.models.tuning import causal_model
from luthier.text import TokenRows
from luthier.train.batches import Update
from luthier.train.experience import Experience, lay_answers
from luthier.train.forward import Forward, spread, together
from luthier.train.held_out import LOOKS, HeldOut
from luthier.train.monitors import SHOWN, Look, Marks, gamed, of_rollout
from luthier.train.objectives import PolicyObjective
from luthier.train.objectives.policy import answer_kl
from luthier.train.parallel import Parallel
from luthier.train.reinforce import truncated_weights, without_end
from luthier.train.rewards import Rewards, Worth, Written, require
from luthier.train.sampler import Drawn, Sampler
from luthier.train.source import Mean, Source, Tensors

Reference = Callable[[], AbstractContextManager[Any]]
"""A context that gives the model before training."""
HELD_OUT = -1
"""Takes the place of a rollout's number in the seeds of held-out answers, which are the same at every look."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: its ids, and the item it comes from."""

    ids: list[int]
    item: Item


@dataclass(frozen=True, slots=True)
class Judges:
    """What answers are worth in training, and what held-out answers are judged by; the same where both are `same`."""

    rewards: Rewards
    held_out: Rewards
    same: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """What a rollout needs of its run."""

    forward: Forward
    micro_tokens: int
    seed: int
    updates: int
    """Of the whole run."""
    every: int
    """Updates between looks at held-out answers, unless the recipe says how many."""
    more: bool
    """Whether a look may come out of turn: not where the recipe says how many."""
    room: int
    """Longest answer in tokens."""


class Rollouts(Source):
    """Fresh answers for the loop."""

    fresh = True

    def __init__(
        self,
        model: Any,
        objective: PolicyObjective,
        prompts: Sequence[Prompt],
        held_out: Sequence[Prompt],
        sampler: Sampler,
        judges: Judges,
        reference: Reference | None,
        setting: Setting,
        log: events.Log,
        parallel: Parallel = Parallel(),  # noqa: B008 - frozen
    ) -> None:
        self.model, self.objective, self.sampler, self.judges = model, objective, sampler, judges
        self.prompts, self.held_out, self.reference = prompts, held_out, reference
        self.setting, self.log, self.parallel = setting, log, parallel
        self.usual = causal_model(model).config._attn_implementation
        each = objective.section.prompts * objective.section.answers
        tolerance = math.inf if judges.same else objective.section.tolerance  # where both are one nothing can be gamed
        self.watch = HeldOut(tolerance, each, len(held_out), self._of_answers)
        self.stopped: str | None = None
        self.number = -1
        self.minibatches: list[Update] = []

    @property
    def every(self) -> int:
        """Updates between validations that suit the run."""
        return self.setting.every

    @property
    def section(self) -> Any:
        """The section of the recipe."""
        return self.objective.section

    def __len__(self) -> int:
        return self.setting.updates

    def update(self, step: int) -> tuple[TokenRows, Update]:
        """The rows of the rollout at hand, made when it is the first update on it, and those of this update."""
        each = self.section.minibatches
        number, at = divmod(step, self.section.passes * each)
        if number != self.number:
            self._roll(number, step)
        if at % each == 0 or not self.minibatches:
            self.minibatches = self._divide(number, at // each)
        return self.objective.experience.rows, self.minibatches[at % each]

    def _divide(self, number: int, turn: int) -> list[Update]:
        """The rows of the rollout in as many updates of about equally many answers, in an order of this pass's own."""
        rows = self.objective.experience.rows
        group = self.objective.group
        lengths = together(rows.lengths.tolist(), group)
        order = np.random.default_rng((self.setting.seed, number, turn)).permutation(len(lengths)).tolist()
        shares = [order[k :: self.section.minibatches] for k in range(self.section.minibatches)]
        fitted = ((share, best_fit([lengths[i] for i in share], self.setting.micro_tokens)) for share in shares)
        return [[spread([share[k] for k in part], group) for part in parts] for share, parts in fitted]

    def _asked(self, number: int) -> list[int]:
        """The numbers of the prompts of a rollout: all prompts in turn, in a new order each time round."""
        found: list[int] = []
        position, count = number * self.section.prompts, len(self.prompts)
        while len(found) < self.section.prompts:
            turn, at = divmod(position, count)
            order = np.random.default_rng((self.setting.seed, 7, turn)).permutation(count).tolist()
            part = order[at : at + self.section.prompts - len(found)]
            found += part
            position += len(part)
        return found

    @torch.no_grad()
    def _roll(self, number: int, step: int) -> None:
        """Sample, reward, and compute what is to be learned."""
        asked = [i for i in self._asked(number) for _ in range(self.section.answers)]
        copies = [k % self.section.answers for k in range(len(asked))]
        drawn, worth = self._answers([self.prompts[i] for i in asked], asked, copies, number, step)
        if worth.failed:
            what, count = worth.failed.most_common(1)[0]
            self.log.write(events.Warned(f"{sum(worth.failed.values())} rewards failed, {count} times {what}"))
        require(worth)
        group = self.objective.group
        whole = (range(i, i + group) for i in range(0, len(asked), group))
        kept = [i for part in whole if all(worth.total[k] is not None for k in part) for i in part]
        if len(kept) < group * self.section.minibatches:
            raise TrainingStopped("no answer has a reward", where=f"rollout {number}", fix="look at the rewards")
        experience = Experience(
            lay_answers([self.prompts[asked[i]].ids for i in kept], [drawn[i].ids for i in kept]),
            facts={
                "scores": torch.tensor([worth.total[i] for i in kept], dtype=torch.float32),
                "groups": torch.tensor([i // self.section.answers for i in kept]),
                "ended": torch.tensor([drawn[i].ended for i in kept]),
                "lengths": torch.tensor([len(drawn[i].ids) for i in kept]),
            },
        )
        sampled = torch.tensor([x for i in kept for x in drawn[i].logprobs])
        self._know(experience, sampled)
        numbers = of_rollout(experience, worth, self.objective.penalty, sampled)
        facts = experience.facts
        facts["scores"] = without_end(facts["scores"], facts["ended"], self.section.missing_end)
        self.objective.prepare(experience)
        if self.objective.anchored:
            self.objective.observe(answer_kl(experience).mean().item(), len(kept))
        self.objective.experience = experience
        self.number = number
        self.log.write(events.RolledOut(step, len(kept), numbers))

    def _know(self, experience: Experience, sampled: torch.Tensor) -> None:
        """What the training forward says of every token: under the policy, the reference, the critic."""
        self.model.train()  # the kernels of an update; dropout is out of the model
        labels, temperature = experience.labels, self.section.temperature

        def logprobs(batch: Batch) -> torch.Tensor:
            return batch_logprobs(self.model, batch, temperature)

        labels["old"] = self._of_labels(logprobs, experience)
        exact = self.sampler.exact or not self.objective.weighted
        labels["weights"] = (
            torch.ones_like(sampled) if exact else truncated_weights(labels["old"], sampled, self.section.truncate)
        )
        if self.objective.critic:
            labels["values"] = self._of_labels(lambda batch: self.model.critic.values(self.model, batch), experience)
        if self.objective.anchored:
            labels["reference"] = self._before(experience)

    def _before(self, experience: Experience) -> torch.Tensor:
        """The log-probabilities [labels] under the model before training."""
        assert self.reference is not None
        with same_gradients(self.model), self.reference() as before:
            other, temperature = self.model if before is None else before, self.section.temperature
            return self._of_labels(lambda batch: batch_logprobs(other, batch, temperature), experience)

    def _of_labels(self, compute: Callable[[Batch], torch.Tensor], experience: Experience) -> torch.Tensor:
        """What `compute` [labels of a batch] says of all labels, each process doing its share; flat, on the CPU."""
        rows, forward = experience.rows, self.setting.forward
        found = torch.zeros(int(experience.counts.sum()), device=forward.device)
        for numbers, weight in self.parallel.share(best_fit(rows.lengths.tolist(), self.setting.micro_tokens)):
            batch = forward.lay(rows, numbers)
            with forward.autocast:
                values = compute(batch)
            found[experience.places(batch.numbers.cpu()).to(forward.device)] += weight * values.float()
        return self.parallel.total(found).cpu()

    def _answers(
        self, prompts: Sequence[Prompt], numbers: Sequence[int], copies: Sequence[int], rollout: int, step: int
    ) -> tuple[list[Drawn], Worth]:
        """An answer to each prompt and what it is worth; processes share the work and all hear everything."""
        rank, world = self.parallel.rank, self.parallel.world
        mine = list(range(rank, len(prompts), world))
        with self._sampling():
            drawn = self.sampler(
                [prompts[i].ids for i in mine],
                [seed_of(self.setting.seed, rollout, numbers[i], copies[i]) for i in mine],
                step,
            )
        worth = self.judges.rewards(self._written(prompts, mine, drawn))
        return self._joined(drawn), self._joined_worth(worth)

    def _written(self, prompts: Sequence[Prompt], mine: Sequence[int], drawn: Sequence[Drawn]) -> list[Written]:
        return [Written(prompts[i].item, d.text, len(d.ids), d.ended) for i, d in zip(mine, drawn, strict=True)]

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """The model as it writes: in evaluation, with the attention that knows of masks and caches."""
        with same_gradients(self.model), attention(causal_model(self.model), self.usual), self.setting.forward.autocast:
            self.model.eval()
            yield

    def _joined(self, part: Sequence[Any]) -> list[Any]:
        """What processes dealt out in turn, in order; on every process."""
        if self.parallel.world == 1:
            return list(part)
        parts: list[Any] = [None] * self.parallel.world
        dist.all_gather_object(parts, list(part))
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, one in enumerate(parts):
            whole[rank :: len(parts)] = one
        return whole

    def _joined_worth(self, worth: Worth) -> Worth:
        if self.parallel.world == 1:
            return worth
        everybody: list[Any] = [None] * self.parallel.world
        dist.all_gather_object(everybody, worth.failed)
        failed = sum(everybody[1:], everybody[0])
        parts = {name: self._joined(values) for name, values in worth.parts.items()}
        return Worth(self._joined(worth.total), parts, failed, self._joined(worth.spread))

    @torch.no_grad()
    def validate(self, step: int, mean: Mean) -> tuple[float, dict[str, float]]:  # noqa: ARG002 - answers are judged
        """Minus the score of greedy answers to the held-out prompts, and what sampled ones say of policy and reward."""
        everything, judged, rewarded = self._held_out(HELD_OUT, step)
        greedy, *marks = self._held_out(None, step)
        prompts = [prompt.ids for prompt in self.held_out]
        shown, likeliest = (
            Experience(lay_answers(prompts, [one.ids for one in part])) for part in (everything, greedy)
        )
        texts = [one.text for one in everything[:SHOWN]]
        look = self.watch.add(step, (shown, likeliest), (judged, rewarded, marks[0], marks[1]), texts)
        found = gamed(self.looks, self.section.tolerance)
        if found and self.section.stop_when_gamed:
            self.stopped = found
        elif found:
            self.log.write(events.Warned(found))
        metrics = {
            "held_out": look.mean,
            "greedy": look.greedy_mean,
            "reward": look.mean_reward,
            "length": sum(len(one.ids) for one in everything) / len(everything),
            "truncated": sum(not one.ended for one in everything) / len(everything),
        }
        if self.reference is not None:
            before = self._before(shown).double().sum()
            metrics["kl"] = ((shown.facts["logprobs"].sum() - before) / len(everything)).item()
        return -look.greedy_mean, metrics

    def _held_out(self, rollout: int | None, step: int) -> tuple[list[Drawn], Marks, Marks]:
        """Answers to the held-out prompts, greedy ones without a rollout's number, their scores and their rewards."""
        rank, world = self.parallel.rank, self.parallel.world
        mine = list(range(rank, len(self.held_out), world))
        seeds = None if rollout is None else [seed_of(self.setting.seed, rollout, i, 0) for i in mine]
        with self._sampling():
            drawn = self.sampler([self.held_out[i].ids for i in mine], seeds, step)
        written = self._written(self.held_out, mine, drawn)
        judged = self._joined_worth(self.judges.held_out(written))
        rewarded = judged if self.judges.same else self._joined_worth(self.judges.rewards(written))
        for worth in (judged, rewarded):
            require(worth)
        return self._joined(drawn), judged.total, rewarded.total

    @torch.no_grad()
    def due(self, step: int) -> bool:
        """After the last update on a rollout: whether the policy has moved so far that held-out answers are due."""
        if not self.setting.more or step % (self.section.passes * self.section.minibatches):
            return False
        return self.watch.due(step)

    def _of_answers(self, experience: Experience) -> torch.Tensor:
        """The log-probabilities [labels] of answers under the policy as it is."""
        self.model.train()  # the kernels of an update; dropout is out of the model
        temperature = self.section.temperature
        return self._of_labels(lambda batch: batch_logprobs(self.model, batch, temperature), experience)

    @property
    def looks(self) -> list[Look]:
        """All looks at held-out answers."""
        return self.watch.looks

    def why_stop(self) -> str | None:
        """That the reward is being gamed."""
        return self.stopped

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The rollout at hand, its number, all looks, and what the objective keeps."""
        kept, watched = self.watch.state()
        facts = {
            "number": self.number,
            "watch": watched,
            "stopped": self.stopped,
            "objective": self.objective.state(),
        }
        return kept | (self.objective.experience.state() if self.number >= 0 else {}), facts

    def restore(self, tensors: Tensors, facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.number, self.stopped = facts["number"], facts["stopped"]
        self.watch.restore(tensors, facts["watch"])
        self.objective.restore(facts["objective"])
        if self.number >= 0:
            own = {name: tensor for name, tensor in tensors.items() if not name.startswith(LOOKS)}
            self.objective.experience = Experience.read(own)
        self.minibatches = []


def seed_of(seed: int, rollout: int, prompt: int, copy: int) -> int:
    """The seed of one answer."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {rollout} {prompt} {copy}".encode(), digest_size=8).digest())


def need_prompts(prompts: Sequence[Prompt], where: str, least: int) -> None:
    """Refuse what cannot be asked.

    Raises:
        DataError: there are too few prompts.
    """
    if len(prompts) < least:
        raise DataError(
            f"{len(prompts)} prompts, and {least} are needed",
            where=where,
            fix="give more conversations, or shorten objective.max_new_tokens where they do not fit the context",
        )
