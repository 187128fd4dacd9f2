"""Answers in batches, greedy or drawn: rows of like length together, a common beginning read once.

Batching is continuous: whoever is done leaves, and when enough of the batch is free others take the places, where the
cache lets rows join.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from luthier.models.beginning import attends_freely, common_beginning, read_beginning
from luthier.models.rows import Rows, choose
from luthier.models.tuning import causal_model
from luthier.text.render import read_answer
from luthier.text.tokenizer import Tokenizer

LOOK_EVERY = 8
"""Tokens between two looks for a text that ends an answer."""
PLACES = 8192
"""Places that answers hold together where nothing else is said, and no GPU has room for more."""
SPARE = 0.5
"""Share of a GPU's free memory that keys and values of answers may take."""
REFILL = 0.25
"""Others join when they fill so large a share of the batch: single prompts are read slowly, empty places are waste."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer: its token ids without the stop token, its text without reasoning, and whether it stopped by itself.

    `end` is the stop token that it wrote, if any, and `logprobs`, where asked for, the log-probability of each token
    when it was drawn, the stop token's last.
    """

    ids: list[int]
    text: str
    stopped: bool
    end: int | None = None
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: the likeliest at temperature 0, else drawn from the nucleus `top_p`.

    `seeds` has one number a prompt: an answer depends on its own alone, not on who else is in the batch.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seeds: Sequence[int] = ()
    stop_texts: Sequence[str] = ()
    """Texts that end an answer; what follows is cut off."""
    logprobs: bool = False
    """Note the log-probability of each token, at this temperature."""


GREEDY = Sampling()


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    stop: Sequence[int],
    max_new_tokens: int,
    batch_tokens: int | None = None,
    sampling: Sampling = GREEDY,
    progress: Callable[[int], None] = lambda _: None,
    on_token: Callable[[int, int], None] = lambda *_: None,
) -> list[Generated]:
    """Answers to tokenised prompts, in their order.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper around one; left in evaluation mode.
        tokenizer: for the text of the answers.
        prompts: token ids, as `render_prompt` gives them.
        stop: ids that end an answer.
        max_new_tokens: longest answer.
        batch_tokens: places of prompts and answers, padding included, that are held together; on a GPU as many as there
            is room for when not given.
        sampling: greedy unless given.
        progress: called with the number of prompts just answered.
        on_token: called with a prompt's number and a token, as soon as the token is written; stop tokens are not.
    """
    model.eval()
    if max_new_tokens < 1:
        return [Generated([], "", stopped=False) for _ in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0]
    shared = common_beginning(prompts) if attends_freely(model) else 0
    beginning = read_beginning(model, prompts[0][:shared]) if shared else None
    places = batch_tokens or places_for(model)
    batch = _Batch(model, tokenizer, prompts, frozenset(stop), max_new_tokens, places, sampling, pad)
    batch.shared, batch.beginning = shared, beginning
    waiting = deque(sorted(range(len(prompts)), key=lambda i: len(prompts[i])))
    while waiting or batch.rows is not None:
        batch.admit(waiting)
        done = batch.step(on_token)
        if done:
            progress(done)
    return [batch.answer(i) for i in range(len(prompts))]


def places_for(model: Any) -> int:
    """Tokens whose keys and values are held together: `PLACES`, or what half of a GPU's free memory holds.

    A token takes 2 x layers x key heads x head size numbers (keys and values).
    """
    place = next(model.parameters()).device
    if place.type != "cuda":
        return PLACES
    causal = causal_model(model)
    config = causal.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    each = 2 * config.num_hidden_layers * keys * size * causal.dtype.itemsize
    return max(PLACES, int(SPARE * torch.cuda.mem_get_info(place)[0] / each))


@dataclass
class _Batch:
    """The prompts that are being answered, and what has been written to all of them.

    Attributes:
        room: most tokens of an answer.
        places: most places, padding included, that rows may hold together.
        shared: so many first tokens of each prompt lie in the cache `beginning` already.
        present: whom each row belongs to; None: done, in a cache that nobody can leave.
    """

    model: Any
    tokenizer: Tokenizer
    prompts: Sequence[list[int]]
    stop: frozenset[int]
    room: int
    places: int
    sampling: Sampling
    pad: int
    shared: int = 0
    beginning: Any = None
    rows: Rows | None = None
    present: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.written: list[list[int]] = [[] for _ in self.prompts]
        self.logprobs: list[list[float]] = [[] for _ in self.prompts]
        self.draws: dict[int, np.random.Generator] = {}

    def admit(self, waiting: deque[int]) -> None:
        """Let those who wait, shortest first, take the free places."""
        if self.rows is not None and not self.rows.can_join:
            return
        new = self._fitting(waiting)
        if not new or (self.rows is not None and new < min(len(waiting), REFILL * (len(self.present) + new))):
            return
        group = [waiting.popleft() for _ in range(new)]
        rows = Rows(
            self.model, [self.prompts[i] for i in group], self.pad, shared=self.shared, beginning=self.beginning
        )
        if self.sampling.temperature:
            self.draws |= {i: np.random.default_rng(self.sampling.seeds[i]) for i in group}
        if self.rows is None:
            self.rows = rows
        else:
            self.rows.join(rows)
        self.present += group

    def _fitting(self, waiting: deque[int]) -> int:
        """How many may come: what all of them will take once padded stays within the places, or it is only one."""
        room = self.room + self.shared // 4 - self.shared  # what is shared costs memory, but no reading
        longest = max((len(self.prompts[i]) for i in self.present if i is not None), default=0)
        count = len(self.present)
        for i in waiting:
            longest = max(longest, len(self.prompts[i]))
            if count and (count + 1) * (longest + room) > self.places:
                break
            count += 1
        return count - len(self.present)

    def step(self, on_token: Callable[[int, int], None]) -> int:
        """Write one token of each answer; how many are done with it."""
        assert self.rows is not None
        rows, sampling, count = self.rows, self.sampling, len(self.present)
        draws = [self.draws.get(i) if i is not None else None for i in self.present]
        following = choose(rows.logits, [sampling.temperature] * count, [sampling.top_p] * count, draws)
        noted: list[float] = []
        if sampling.logprobs:
            shares = torch.log_softmax(rows.logits.float() / (sampling.temperature or 1.0), dim=-1)
            noted = shares.gather(-1, following[:, None])[:, 0].tolist()
        kept, before = [], sum(i is not None for i in self.present)
        for row, (i, token) in enumerate(zip(self.present, following.tolist(), strict=True)):
            if i is None:
                continue
            self.written[i].append(token)
            if noted:
                self.logprobs[i].append(noted[row])
            if token not in self.stop:
                on_token(i, token)
            if self._ended(i):
                self.present[row] = None
            else:
                kept.append(row)
        if not kept:
            self.rows, self.present = None, []
        else:
            if len(kept) < count and rows.can_leave:
                rows.keep(kept)
                following, self.present = following[kept], [self.present[row] for row in kept]
            rows.feed(following)
        return before - len(kept)

    def _ended(self, i: int) -> bool:
        written = self.written[i]
        if written[-1] in self.stop or len(written) >= self.room:
            return True
        if not self.sampling.stop_texts or len(written) % LOOK_EVERY:
            return False
        text = self.tokenizer.decode(written)
        return any(end in text for end in self.sampling.stop_texts)

    def answer(self, i: int) -> Generated:
        """What was written to a prompt."""
        return generated(self.written[i], self.logprobs[i], self.stop, self.tokenizer, self.sampling.stop_texts)


def generated(
    ids: list[int], logprobs: Sequence[float], ends: frozenset[int], tokenizer: Tokenizer, stop_texts: Sequence[str]
) -> Generated:
    """An answer from its ids, the stop token included if it wrote one; cut off at the first text that ends it."""
    end = ids[-1] if ids and ids[-1] in ends else None
    kept = ids if end is None else ids[:-1]
    text, stopped = read_answer(kept, tokenizer), end is not None
    if cuts := [at for stop in stop_texts if (at := text.find(stop)) >= 0]:
        text, stopped = text[: min(cuts)], True
    return Generated(kept, text, stopped, end, tuple(logprobs))
