"""Talking to a run's model, with the recipe's system message and the model's own template."""

from collections.abc import Callable
from typing import Any

from luthier.errors import DataError
from luthier.models.base import Base, find_base
from luthier.models.generate import Generated, generate
from luthier.models.load import load_model, quiet, training_dtype
from luthier.runs import Run
from luthier.text import load_tokenizer, render_prompt, stop_ids
from luthier.types import Message

LONGEST_ANSWER = 1024
"""Tokens. A model that never ends its answer is cut there."""
HALF = "\N{REPLACEMENT CHARACTER}"


class Conversation:
    """A conversation with the released model of a run, the tuned one where none is released, or the base."""

    def __init__(self, run: Run, *, base: bool = False) -> None:
        """Load the model.

        Raises:
            DataError: the run has no model yet.
        """
        if run.recipe.objective.kind == "reward":
            raise DataError("a reward model gives scores, it does not answer", where=run.name, fix="open another run")
        quiet()
        self._start = find_base(run.recipe.model, run.home)
        dtype = training_dtype(run.recipe.model.dtype)
        self._system = run.recipe.data.system
        if base:
            self.what, self.folder = "base model", self._start.folder
            self._model = load_model(self._start, dtype)
        elif "release" in run.artifacts and (run.artifact("release").path("model") / "config.json").exists():
            self.what, self.folder = "released model", run.artifact("release").path("model")
            self._model = load_model(Base(run.name, self.folder, None, self._start.trust_remote_code), dtype)
        elif "model" in run.artifacts:
            self.what, self.folder = "tuned model, not released", run.artifact("model").folder
            self._model = self._load_tuned(run)
        else:
            raise DataError("the run has no model yet", where=run.name, fix=f"luthier run {run.folder}")
        self._tokenizer = load_tokenizer(self.folder, trust_remote_code=self._start.trust_remote_code)
        self._stop = stop_ids(self._tokenizer, self._start.stop_ids)
        self._turns: list[Message] = []
        self.forget()

    def _load_tuned(self, run: Run) -> Any:
        from pydantic import TypeAdapter

        from luthier.models.tuned import load_tuned
        from luthier.recipe import Tuning

        plan = run.artifact("plan").json("plan.json")
        return load_tuned(self._start, self.folder, TypeAdapter(Tuning).validate_python(plan["tuning"]), plan["dtype"])

    def forget(self) -> None:
        """Start over."""
        self._turns = [Message("system", self._system)] if self._system else []

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
        room = min(LONGEST_ANSWER, self._start.context - len(prompt))
        if room < 1:
            reason = f"{len(prompt):,} tokens so far, and the model's context ends at {self._start.context:,}"
            raise DataError(reason, where="conversation", fix="/new starts over")
        ids: list[int] = []
        shown = 0

        def piece(_: int, token: int) -> None:
            nonlocal shown
            ids.append(token)
            text = self._tokenizer.decode(ids)
            if not text.endswith(HALF):  # the rest of the character is in the next token
                show(text[shown:])
                shown = len(text)

        answer = generate(self._model, self._tokenizer, [prompt], stop=self._stop, max_new_tokens=room, on_token=piece)[
            0
        ]
        show(answer.text[shown:])
        self._turns = [*turns, Message("assistant", answer.text)]
        return answer
