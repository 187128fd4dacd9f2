"""Talking to a run's model, with the recipe's system message and the model's own template."""

from typing import Any

from luthier.errors import DataError
from luthier.models.base import Base, find_base
from luthier.models.generate import Generated, generate
from luthier.models.load import load_model, quiet, training_dtype
from luthier.runs import Run
from luthier.text import load_tokenizer, render_prompt, stop_ids
from luthier.types import Message

LONGEST_ANSWER = 256


class Conversation:
    """A conversation with the released model of a run, the tuned one where none is released, or the base."""

    def __init__(self, run: Run, *, base: bool = False) -> None:
        """Load the model.

        Raises:
            DataError: the run has no model yet.
        """
        quiet()
        self._start = find_base(run.recipe.model, run.home)
        dtype = training_dtype(run.recipe.model.dtype)
        self._system = run.recipe.data.system
        if base:
            self.what, self.folder = "base model", self._start.folder
            self._model = load_model(self._start, dtype)
        elif "release" in run.artifacts and run.recipe.release.merge:
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

    def ask(self, text: str) -> Generated:
        """The model's answer, which becomes part of the conversation."""
        self._turns.append(Message("user", text))
        prompt = render_prompt(self._turns, self._tokenizer)
        answer = generate(self._model, self._tokenizer, [prompt], stop=self._stop, max_new_tokens=LONGEST_ANSWER)[0]
        self._turns.append(Message("assistant", answer.text))
        return answer
