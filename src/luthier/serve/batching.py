"""Requests answered together: whoever comes joins the batch at the next token, whoever is done leaves it.

One thread does all the computing. Everybody else hands it questions with `ask` and hears of tokens as they are written.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from luthier.models.rows import Rows, chances, choose
from luthier.text.stream import AnswerStream
from luthier.text.tokenizer import Tokenizer

Reason = Literal["stop", "length"]
READ_AT_ONCE = 8192
"""Prompt tokens, padding included, that are read between two tokens of those who are being answered."""


@dataclass(frozen=True, slots=True)
class Chance:
    """A written token with its log-probability, and the likeliest alternatives [(id, log-probability)]."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """News of an answer: text that is sure by now (may be empty), and its tokens' chances where they were asked for."""

    text: str
    chances: Sequence[Chance] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer: why, and how many tokens were written, the end token included."""

    reason: Reason
    tokens: int


News = Piece | Done | Exception


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be answered and how.

    Attributes:
        prompt: token ids.
        room: most tokens that may be written.
        temperature, top_p: 0 takes the likeliest token; else one is drawn from the nucleus.
        seed: of this answer's own random numbers.
        stops: texts that end the answer.
        top: alternatives wanted for each token; None: no log-probabilities at all.
        before: the prompt's text, as far as the reader of the answer has to know it.
        raw: a plain text is continued, no answer given.
    """

    prompt: Sequence[int]
    room: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: Any = 0
    stops: Sequence[str] = ()
    top: int | None = None
    before: str = ""
    raw: bool = False


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Served:
    """A model under the name that clients use.

    Attributes:
        name: what clients ask for.
        model: a causal language model, adapters beside it if it has some.
        tokenizer: its tokenizer.
        stop: ids that end an answer.
        context: most tokens that prompt and answer may have together.
        active: makes this one answer, where several share weights.
        fingerprint: changes with the weights.
        system: the system message that it was trained with.
        base: the name of the model it was tuned from.
    """

    name: str
    model: Any
    tokenizer: Tokenizer
    stop: tuple[int, ...]
    context: int
    active: Callable[[], AbstractContextManager[None]] = _as_it_is
    fingerprint: str = ""
    system: str | None = None
    base: str | None = None


@dataclass(eq=False)
class Answering:
    """One answer in the making; `cancel` makes it end as soon as may be, without any further news."""

    question: Question
    tell: Callable[[News], None]
    stream: AnswerStream
    draw: np.random.Generator
    cancelled: bool = False
    written: int = 0
    held: list[Chance] = field(default_factory=list)

    def cancel(self) -> None:
        """Nobody listens any more."""
        self.cancelled = True


class _Line:
    """The answers of one model."""

    def __init__(self, served: Served, most: int) -> None:
        self.served, self.most = served, most
        self.waiting: deque[Answering] = deque()
        self.present: list[Answering | None] = []  # None: done, in a cache that nobody can leave
        self.rows: Rows | None = None
        pad = served.tokenizer.pad_token_id
        self.pad = int(pad if pad is not None else served.stop[0] if served.stop else 0)

    def step(self) -> None:
        """Let the waiting in, and write one token of each answer."""
        self._leave([row for row, one in enumerate(self.present) if one is not None and not one.cancelled])
        if new := self._admit():
            self._read(new)
        if self.rows is None:
            return
        tokens = self._choose(self.rows)
        told = self._chances(self.rows, tokens)
        for row, (one, token) in enumerate(zip(self.present, tokens.tolist(), strict=True)):
            if one is not None and self._write(one, int(token), told[row]):
                self.present[row] = None
        kept = [row for row, one in enumerate(self.present) if one is not None]
        if kept and self.rows.can_leave:
            tokens = tokens[kept]
        self._leave(kept)
        if self.rows is not None:
            self.rows.feed(tokens)

    def _read(self, new: list[Answering]) -> None:
        """Read the prompts of those who come in; one that is too much for the memory is no harm to the others."""
        try:
            rows = Rows(self.served.model, [list(one.question.prompt) for one in new], self.pad)
        except Exception as error:
            if len(new) == 1:
                new[0].tell(error)
            else:  # one by one
                for one in new:
                    self._read([one])
            return
        if self.rows is None:
            self.rows = rows
        else:
            self.rows.join(rows)
        self.present += new

    def fail(self, error: Exception) -> None:
        """Something broke: tell everybody who is being answered, and begin anew."""
        for one in self.present:
            if one is not None and not one.cancelled:
                one.tell(error)
        self.present, self.rows = [], None

    def _leave(self, kept: list[int]) -> None:
        if not kept:
            self.present, self.rows = [], None
        elif self.rows is not None and len(kept) < len(self.present) and self.rows.can_leave:
            self.rows.keep(kept)
            self.present = [self.present[row] for row in kept]

    def _admit(self) -> list[Answering]:
        """Who may come in now: all that there is room for, as many as can be read without stalling the others."""
        new: list[Answering] = []
        longest = 0
        if self.rows is not None and not self.rows.can_join:
            return new
        while self.waiting and len(self.present) + len(new) < self.most:
            longest = max(longest, len(self.waiting[0].question.prompt))
            if new and longest * (len(new) + 1) > READ_AT_ONCE:
                break
            one = self.waiting.popleft()
            if not one.cancelled:
                new.append(one)
        return new

    def _choose(self, rows: Rows) -> Any:
        asked = [one.question if one else None for one in self.present]
        return choose(
            rows.logits,
            [question.temperature if question else 0.0 for question in asked],
            [question.top_p if question else 1.0 for question in asked],
            [one.draw if one else None for one in self.present],
        )

    def _chances(self, rows: Rows, tokens: Any) -> list[Chance | None]:
        asked = [one.question.top if one else None for one in self.present]
        if all(top is None for top in asked):
            return [None] * len(asked)
        most = max(top or 0 for top in asked)
        found = chances(rows.logits, tokens.tolist(), most)
        return [
            None if top is None else Chance(int(token), own, others[:top])
            for top, token, (own, others) in zip(asked, tokens.tolist(), found, strict=True)
        ]

    def _write(self, one: Answering, token: int, chance: Chance | None) -> bool:
        """One more token of an answer; true when it was the last."""
        one.written += 1
        stopped = token in self.served.stop
        piece = "" if stopped else one.stream.add(token)
        if chance is not None and not stopped:
            one.held.append(chance)
        ended = stopped or one.stream.ended
        last = ended or one.written >= one.question.room
        if last:
            piece += one.stream.finish()
        if piece or (last and one.held):
            one.tell(Piece(piece, tuple(one.held)))
            one.held.clear()
        if last:
            one.tell(Done("stop" if stopped or one.stream.ended else "length", one.written))
        return last


class Batching:
    """All models that are served, and the thread that computes."""

    def __init__(self, models: Sequence[Served], *, rows: int = 16, waiting: int = 256) -> None:
        """Begin to work.

        Args:
            models: what is served.
            rows: answers of one model that are written together.
            waiting: questions that may wait for their turn.
        """
        self.models = {served.name: served for served in models}
        self._most = waiting
        self._lines = {served.name: _Line(served, rows) for served in models}
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="luthier-batching", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread computes."""
        return self._thread.is_alive()

    @property
    def full(self) -> bool:
        """Whether no more questions can wait."""
        return sum(len(line.waiting) for line in self._lines.values()) >= self._most

    def ask(self, name: str, question: Question, tell: Callable[[News], None]) -> Answering:
        """Hand in a question.

        Args:
            name: of one of the models.
            question: what and how.
            tell: called from the thread that computes; the last news is `Done` or an error.
        """
        served = self.models[name]
        stream = AnswerStream(served.tokenizer, stops=question.stops, prompt=question.before, raw=question.raw)
        one = Answering(question, tell, stream, np.random.default_rng(question.seed))
        with self._wake:
            self._lines[name].waiting.append(one)
            self._wake.notify()
        return one

    def close(self) -> None:
        """Stop computing; whoever still waits hears no more."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._closed or any(line.waiting or line.present for line in self._lines.values())
                )
                if self._closed:
                    return
            for line in self._lines.values():
                if not line.waiting and not line.present:
                    continue
                try:
                    with line.served.active():
                        line.step()
                except Exception as error:  # memory that runs out, for example: the next question may be smaller
                    line.fail(error)
