"""Asking a model: answers generated in batches; choices and texts by likelihood, packed, through the training forward.

Nothing is merged for it: an adapter is asked as it was trained. What was asked before, in this decoding, is not asked
again.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.evaluate.cache import Memory, Said, key_of
from luthier.evaluate.items import Decoding, Item, Task
from luthier.evaluate.likelihood import branch_logprobs, row_losses
from luthier.evaluate.marking import TOO_LONG, mark
from luthier.evaluate.trees import Branches
from luthier.models.generate import Generated, Sampling, generate
from luthier.models.tuning import causal_model
from luthier.models.vllm import Vllm
from luthier.text import render_prompt
from luthier.text.render import TrainingRow
from luthier.text.rows import gather
from luthier.text.tokenizer import Tokenizer
from luthier.types import Answer

Progress = Callable[[int], None]
ROOM = 1.25
"""An answer may be this much longer than the longest expected one, unless the task says how long."""
AT_ONCE = 512
"""Answers between two writes to memory."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model under test.

    Attributes:
        model: a causal language model, its adapter beside it if it has one.
        tokenizer: its tokenizer.
        stop: ids that end an answer.
        packed: whether rows may share a forward pass.
        memory: what it said before.
        writer: writes its answers in place of the model in this process: vLLM.
        batch_tokens: places of prompts and answers that are held together; what there is room for when not given.
    """

    model: Any
    tokenizer: Tokenizer
    stop: Sequence[int]
    packed: bool = True
    memory: Memory = field(default_factory=Memory)
    writer: Vllm | None = None
    batch_tokens: int | None = None

    @property
    def window(self) -> int:
        """Most tokens that prompt and answer may have together."""
        config = causal_model(self.model).config.get_text_config()
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(found or 1 << 30)


def ask(candidate: Candidate, task: Task, progress: Progress = lambda _: None) -> list[Answer]:
    """The candidate's answers to a task, scored; an answer that never stops scores what its text earns."""
    if task.kind == "harness":
        from luthier.evaluate.harness import ask_all  # it asks back

        return ask_all(candidate, task)
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
    way = ways[task.kind]
    for found in way(candidate, decoding, new):
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
        sampling = Sampling(decoding.temperature, decoding.top_p, seeds, decoding.stop)
        answers = _written(candidate, [prompts[key] for key in part], room, sampling)
        yield {
            key: {"text": a.text, "stopped": a.stopped, "tokens": len(a.ids)}
            for key, a in zip(part, answers, strict=True)
        }


def _written(candidate: Candidate, prompts: list[list[int]], room: int, sampling: Sampling) -> list[Generated]:
    if candidate.writer is not None:
        return candidate.writer.write(prompts, stop=candidate.stop, room=room, sampling=sampling)
    return generate(
        candidate.model,
        candidate.tokenizer,
        prompts,
        stop=candidate.stop,
        max_new_tokens=room,
        batch_tokens=candidate.batch_tokens,
        sampling=sampling,
    )


def _seed(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest())


def prompt_ids(item: Item, tokenizer: Tokenizer) -> list[int]:
    """The ids of an item's prompt: by the chat template, or of a plain text as the tokenizer begins one itself."""
    if item.text is None:
        return render_prompt(item.prompt, tokenizer)
    return _plain_ids(item.text, tokenizer)


def _plain_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    return _without_end(tokenizer.backend_tokenizer.encode(text, add_special_tokens=True).ids, tokenizer)


def _without_end(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The ids of a text that goes on: without the end token that some tokenizers add."""
    return list(ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids)


def choices_of(items: Sequence[Item], tokenizer: Tokenizer) -> list[Branches]:
    """The prompt and the choices of items, tokenised.

    A plain prompt is tokenised with each choice as one text, white space at its end counted to the choice: so does
    lm-evaluation-harness. After a chat template's generation prompt the choice begins anew.
    """
    texts: list[str] = []
    for item in items:
        if item.text is None:
            continue
        bare = item.text.rstrip()
        blank = item.text[len(bare) :] or " "
        texts += [bare, *(bare + blank + choice for choice in item.choices)]
    backend = tokenizer.backend_tokenizer
    plain = iter(backend.encode_batch_fast(texts, add_special_tokens=True))
    # What a chat answer begins with is no begin token.
    written = iter(
        backend.encode_batch_fast([c for i in items if i.text is None for c in i.choices], add_special_tokens=False)
    )
    found = []
    for item in items:
        if item.text is None:
            found.append(
                Branches(render_prompt(item.prompt, tokenizer), [list(next(written).ids) for _ in item.choices])
            )
            continue
        start = _without_end(next(plain).ids, tokenizer)
        wholes = [_without_end(next(plain).ids, tokenizer) for _ in item.choices]
        if not start:
            start = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id]
            found.append(Branches(start, wholes))
        else:
            found.append(Branches(start, [whole[len(start) :] for whole in wholes]))
    return found


def _chosen(candidate: Candidate, _: Decoding, new: dict[str, tuple[Item, int]]) -> Iterator[dict[str, Said]]:
    found = dict(zip(new, choices_of([item for item, _ in new.values()], candidate.tokenizer), strict=True))
    long = {key for key, branches in found.items() if branches.longest > candidate.window}
    if long:
        yield {key: dict(TOO_LONG) for key in long}
    keys = sorted((key for key in found if key not in long), key=lambda key: found[key].start)  # like ones together
    for start in range(0, len(keys), AT_ONCE):
        part = keys[start : start + AT_ONCE]
        logprobs = branch_logprobs(candidate.model, [found[key] for key in part], packed=candidate.packed)
        yield {key: {"logprobs": row} for key, row in zip(part, logprobs, strict=True)}


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
