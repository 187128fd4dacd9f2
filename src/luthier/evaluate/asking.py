"""Asking a model: answers generated in batches; choices and texts by likelihood, packed, through the training forward.

Nothing is merged for it: an adapter is asked as it was trained. What was asked before, in this decoding, is not asked
again.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from luthier.evaluate.cache import Memory, Said, key_of
from luthier.evaluate.items import Decoding, Item, Task
from luthier.evaluate.marking import TOO_LONG, mark
from luthier.models.attention import NAME, attention
from luthier.models.batch import best_fit, lay_out
from luthier.models.generate import Sampling, generate
from luthier.models.logprobs import batch_logprobs, hidden_states, logits_of
from luthier.models.tuning import causal_model
from luthier.text import TokenRows, render_prompt
from luthier.text.render import TrainingRow
from luthier.text.rows import gather
from luthier.text.tokenizer import Tokenizer
from luthier.types import Answer

Progress = Callable[[int], None]
ROOM = 1.25
"""An answer may be this much longer than the longest expected one, unless the task says how long."""
AT_ONCE = 512
"""Answers between two writes to memory."""
BUDGET = 4096
"""Tokens of one packed forward pass."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model under test.

    Attributes:
        model: a causal language model, its adapter beside it if it has one.
        tokenizer: its tokenizer.
        stop: ids that end an answer.
        packed: whether rows may share a forward pass.
        memory: what it said before.
        batch_tokens: prompt tokens that are answered together.
    """

    model: Any
    tokenizer: Tokenizer
    stop: Sequence[int]
    packed: bool = True
    memory: Memory = field(default_factory=Memory)
    batch_tokens: int = 8192

    @property
    def window(self) -> int:
        """Most tokens that prompt and answer may have together."""
        config = causal_model(self.model).config.get_text_config()
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(found or 1 << 30)


def ask(candidate: Candidate, task: Task, progress: Progress = lambda _: None) -> list[Answer]:
    """The candidate's answers to a task, scored; an answer that never stops scores what its text earns."""
    return mark(task, task.items, said(candidate, task, progress))


def said(candidate: Candidate, task: Task, progress: Progress = lambda _: None) -> list[list[Said]]:
    """What the candidate says to each item, `decoding.samples` times; from memory where it was asked before."""
    decoding = settled(task, candidate.tokenizer)
    samples = decoding.samples if task.kind == "generate" else 1
    keys = [[key_of(item, task.kind, decoding, k) for k in range(samples)] for item in task.items]
    new: dict[str, tuple[Item, int]] = {}
    for item, row in zip(task.items, keys, strict=True):
        for sample, key in enumerate(row):
            if candidate.memory.get(key) is None:
                new.setdefault(key, (item, sample))
    progress(len(task.items) * samples - len(new))
    if new:
        _ask_new(candidate, task, decoding, new, progress)
    return [[_known(candidate.memory, key) for key in row] for row in keys]


def _known(memory: Memory, key: str) -> Said:
    found = memory.get(key)
    assert found is not None
    return found


def settled(task: Task, tokenizer: Tokenizer) -> Decoding:
    """The task's decoding with the room for an answer: from the longest expected one where the task does not say."""
    if task.kind != "generate" or task.decoding.max_new_tokens is not None:
        return task.decoding
    texts = [text for item in task.items for text in item.right]
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    longest = max((len(one.ids) for one in encoded), default=1)
    return replace(task.decoding, max_new_tokens=int(ROOM * longest) + 4)


def _ask_new(
    candidate: Candidate, task: Task, decoding: Decoding, new: dict[str, tuple[Item, int]], progress: Progress
) -> None:
    ways = {"generate": _generated, "choose": _chosen, "likelihood": _likely}
    for found in ways[task.kind](candidate, decoding, new):
        candidate.memory.keep(found)
        progress(len(found))


def _generated(candidate: Candidate, decoding: Decoding, new: dict[str, tuple[Item, int]]) -> Iterator[dict[str, Said]]:
    prompts = {key: prompt_ids(item, candidate.tokenizer) for key, (item, _) in new.items()}
    room = decoding.max_new_tokens or 1
    long = {key for key, ids in prompts.items() if len(ids) + room > candidate.window}
    if long:
        yield {key: dict(TOO_LONG) for key in long}
    keys = sorted((key for key in prompts if key not in long), key=lambda key: len(prompts[key]))
    for start in range(0, len(keys), AT_ONCE):
        part = keys[start : start + AT_ONCE]
        seeds = [_seed(decoding.seed, key) for key in part]
        answers = generate(
            candidate.model,
            candidate.tokenizer,
            [prompts[key] for key in part],
            stop=candidate.stop,
            max_new_tokens=room,
            batch_tokens=candidate.batch_tokens,
            sampling=Sampling(decoding.temperature, decoding.top_p, seeds, decoding.stop),
        )
        yield {
            key: {"text": a.text, "stopped": a.stopped, "tokens": len(a.ids)}
            for key, a in zip(part, answers, strict=True)
        }


def _seed(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest())


def prompt_ids(item: Item, tokenizer: Tokenizer) -> list[int]:
    """The ids of an item's prompt: by the chat template, or of a plain text as the tokenizer begins one itself."""
    if item.text is None:
        return render_prompt(item.prompt, tokenizer)
    return _plain_ids(item.text, tokenizer)


def _plain_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    ids = list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=True).ids)
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def choice_rows(item: Item, tokenizer: Tokenizer) -> list[TrainingRow]:
    """One row a choice, of which the choice is scored.

    A plain prompt is tokenised with the choice as one text, white space at its end counted to the choice: so does
    lm-evaluation-harness. After a chat template's generation prompt the choice begins anew.
    """
    if item.text is None:
        start = render_prompt(item.prompt, tokenizer)
        ends = tokenizer.backend_tokenizer.encode_batch(list(item.choices), add_special_tokens=False)
        return [_row(start, list(end.ids)) for end in ends]
    bare = item.text.rstrip()
    blank = item.text[len(bare) :] or " "
    start = _plain_ids(bare, tokenizer) if bare else [tokenizer.bos_token_id or tokenizer.eos_token_id]
    wholes = [_plain_ids(bare + blank + choice, tokenizer) for choice in item.choices]
    return [_row(start, whole[len(start) :] if bare else whole) for whole in wholes]


def _row(start: list[int], end: list[int]) -> TrainingRow:
    return TrainingRow(start + end, [False] * len(start) + [True] * len(end))


def _chosen(candidate: Candidate, _: Decoding, new: dict[str, tuple[Item, int]]) -> Iterator[dict[str, Said]]:
    rows = {key: choice_rows(item, candidate.tokenizer) for key, (item, _) in new.items()}
    long = {key for key, found in rows.items() if max(len(row.ids) for row in found) > candidate.window}
    if long:
        yield {key: dict(TOO_LONG) for key in long}
    keys = sorted((key for key in rows if key not in long), key=lambda key: len(rows[key][0].ids))
    single = [key for key in keys if all(sum(row.trained) == 1 for row in rows[key])]
    # One forward pass over the prompt gives every choice of one token.
    for start in range(0, len(single), AT_ONCE):
        part = single[start : start + AT_ONCE]
        yield dict(zip(part, _single(candidate, [rows[key] for key in part]), strict=True))
    several = [key for key in keys if key not in set(single)]
    for start in range(0, len(several), AT_ONCE):
        part = several[start : start + AT_ONCE]
        flat = gather([row for key in part for row in rows[key]])
        sums = iter(row_losses(candidate.model, flat, packed=candidate.packed)[0])
        yield {key: {"logprobs": [-next(sums) for _ in rows[key]]} for key in part}


@torch.no_grad()
def _single(candidate: Candidate, choices: Sequence[Sequence[TrainingRow]]) -> list[Said]:
    """Log-probabilities of choices of one token each, from one row an item."""
    model = candidate.model.eval()
    place = next(model.parameters()).device
    firsts = [found[0] for found in choices]
    prompts = gather([TrainingRow(row.ids, [False] * (len(row.ids) - 1) + [True]) for row in firsts])
    logprobs: list[Said] = [{} for _ in choices]
    with attention(causal_model(model), NAME):
        for numbers in best_fit(prompts.lengths.tolist(), BUDGET):
            batch = lay_out(prompts, numbers, packed=candidate.packed).to(place)
            hidden = hidden_states(model, batch).index_select(0, batch.sources)
            logits = logits_of(causal_model(model), hidden).float()
            norms = torch.logsumexp(logits, dim=-1).tolist()
            for line, number in enumerate(numbers):
                ids = torch.tensor([row.ids[-1] for row in choices[number]], device=place)
                found = logits[line].index_select(0, ids).tolist()
                logprobs[number] = {"logprobs": [x - norms[line] for x in found]}
    return logprobs


def _likely(candidate: Candidate, _: Decoding, new: dict[str, tuple[Item, int]]) -> Iterator[dict[str, Said]]:
    """Whole texts, those longer than the window in pieces of which each sees its own beginning only."""
    keys = list(new)
    for start in range(0, len(keys), AT_ONCE):
        part = keys[start : start + AT_ONCE]
        pieces: list[TrainingRow] = []
        owners: list[int] = []
        for number, key in enumerate(part):
            found = _pieces(new[key][0], candidate)
            pieces += found
            owners += [number] * len(found)
        sums, counts = row_losses(candidate.model, gather(pieces), packed=candidate.packed)
        rows: dict[str, Said] = {
            key: {"nats": 0.0, "tokens": 0, "bytes": len(new[key][0].expected.encode("utf-8", "replace"))}
            for key in part
        }
        for owner, nats, count in zip(owners, sums, counts, strict=True):
            rows[part[owner]]["nats"] += nats
            rows[part[owner]]["tokens"] += count
        yield rows


def _pieces(item: Item, candidate: Candidate) -> list[TrainingRow]:
    """A text as rows of at most a window, each token scored once.

    The first token is scored where the tokenizer has a begin token to predict it from; a later piece begins with the
    last token of the one before.
    """
    tokenizer = candidate.tokenizer
    before = _plain_ids(item.text, tokenizer) if item.text else []
    whole = _plain_ids((item.text or "") + item.expected, tokenizer)
    if not before and tokenizer.bos_token_id is not None and whole[:1] != [tokenizer.bos_token_id]:
        whole = [tokenizer.bos_token_id, *whole]
    first = max(1, len(before))
    trained = [k >= first for k in range(len(whole))]
    rows, start = [], 0
    while start == 0 or start < len(whole) - 1:
        end = min(start + candidate.window, len(whole))
        rows.append(TrainingRow(whole[start:end], [False, *trained[start + 1 : end]]))
        start = end - 1
    return rows


@torch.no_grad()
def row_losses(model: Any, rows: TokenRows, *, packed: bool, budget: int = BUDGET) -> tuple[list[float], list[int]]:
    """Summed negative log-likelihood (nats) and number of trained tokens of each row."""
    model.eval()
    place = next(model.parameters()).device
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with attention(causal_model(model), NAME):
        for numbers in best_fit(rows.lengths.tolist(), budget):
            batch = lay_out(rows, numbers, packed=packed).to(place)
            each = torch.zeros(len(numbers), dtype=torch.float64, device=place)
            each.index_add_(0, batch.rows, -batch_logprobs(model, batch).double())
            labels = torch.bincount(batch.rows, minlength=len(numbers)).tolist()
            for number, loss, n in zip(numbers, each.tolist(), labels, strict=True):
                sums[number], counts[number] = loss, n
    return sums, counts
