"""Talking to a run's model, with the recipe's system message and the model's own template."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from luthier.errors import DataError
from luthier.models.generate import Generated, generate
from luthier.models.load import quiet
from luthier.pipeline.opened import Opened, open_base, open_tuned
from luthier.recipe import Qlora
from luthier.runs import Run
from luthier.text import render_prompt
from luthier.text.stream import AnswerStream
from luthier.types import Message

LONGEST_ANSWER = 1024
"""Tokens. A model that never ends its answer is cut there."""


class Conversation:
    """A conversation with the released model of a run, the tuned one where none is released, or the base."""

    def __init__(self, run: Run, *, base: bool = False) -> None:
        """Load the model.

        Raises:
            DataError: the run has no model yet.
        """
        quiet()
        opened = open_base(run) if base else open_tuned(run)
        self._begin(run, opened, opened.load())

    def _begin(self, run: Run, opened: Opened, model: Any) -> None:
        self._run, self._opened, self._model = run, opened, model
        self.what, self.folder = opened.what, opened.folder
        self._active: Callable[[], AbstractContextManager[None]] = nullcontext
        self._tokenizer = opened.tokenizer()
        self._stop = opened.stop(self._tokenizer)
        self._system = run.recipe.data.system
        self._turns: list[Message] = []
        self.forget()

    def beside(self) -> "Conversation":
        """The same conversation so far, with the base model; an adapter's base is in memory already."""
        other = object.__new__(Conversation)
        opened = open_base(self._run)
        if self._opened.adapter and not isinstance(self._opened.tuning, Qlora):
            from luthier.models.tuning import untuned

            other._begin(self._run, opened, self._model)
            other._active = lambda: untuned(self._model)
        else:
            other._begin(self._run, opened, opened.load())
        other._system, other._turns = self._system, list(self._turns)
        return other

    @property
    def system(self) -> str | None:
        """The system message; setting it starts over."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        """Another one, from the beginning."""
        self._system = text
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self._turns = [Message("system", self._system)] if self._system else []

    def take_back(self) -> None:
        """Forget the last question and its answer."""
        del self._turns[-2:]

    def ask(self, text: str, show: Callable[[str], None] = lambda _: None) -> Generated:
        """The model's answer, which becomes part of the conversation.

        Args:
            text: what the user says.
            show: told of each piece of the answer as soon as it is written; the pieces make up the answer's text.

        Raises:
            DataError: the conversation fills the model's context, so there is no room for an answer.
        """
        turns = [*self._turns, Message("user", text)]
        prompt = render_prompt(turns, self._tokenizer)
        context = self._opened.start.context
        room = min(LONGEST_ANSWER, context - len(prompt))
        if room < 1:
            reason = f"{len(prompt):,} tokens so far, and the model's context ends at {context:,}"
            raise DataError(reason, where="conversation", fix="/reset starts over")
        stream = AnswerStream(self._tokenizer, prompt=str(self._tokenizer.decode(prompt[-64:])))

        def piece(_: int, token: int) -> None:
            if new := stream.add(token):
                show(new)

        with self._active():
            answers = generate(
                self._model, self._tokenizer, [prompt], stop=self._stop, max_new_tokens=room, on_token=piece
            )
        if rest := stream.finish():
            show(rest)
        self._turns = [*turns, Message("assistant", answers[0].text)]
        return answers[0]
