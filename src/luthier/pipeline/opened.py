"""The models of a run, found and loaded: what was released, what was tuned, what both began from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from luthier.errors import DataError
from luthier.models.base import Base, find_base
from luthier.recipe import Tuning
from luthier.runs import Run
from luthier.text import load_tokenizer, stop_ids
from luthier.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Opened:
    """A model on disk that can be talked to.

    Attributes:
        what: in words.
        folder: where its weights and its tokenizer lie.
        start: the base model it comes from, or is.
        dtype: number format of its weights in memory.
        identity: changes with any of its bytes.
        tuning: how the weights in `folder` are laid over the base; None where they are a whole model.
    """

    what: str
    folder: Path
    start: Base
    dtype: Any
    identity: str
    tuning: Tuning | None = None

    def load(self) -> Any:
        """Its weights, in evaluation mode on this machine's device."""
        from luthier.models.load import load_model
        from luthier.models.tuned import load_tuned

        if self.tuning is not None:
            return load_tuned(self.start, self.folder, self.tuning, self.dtype)
        if self.folder == self.start.folder:
            return load_model(self.start, self.dtype)
        return load_model(Base(self.start.name, self.folder, None, self.start.trust_remote_code), self.dtype)

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter beside the base's weights."""
        return self.tuning is not None and self.tuning.kind not in ("full", "freeze")

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        if self.folder == self.start.folder:
            return self.start.tokenizer()
        return load_tokenizer(self.folder, trust_remote_code=self.start.trust_remote_code)

    def stop(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The ids that end an answer."""
        return stop_ids(tokenizer, self.start.stop_ids)


def open_tuned(run: Run, *, adapter: bool = False) -> Opened:
    """The released model of a run, the tuned one where none is released.

    Args:
        run: the run.
        adapter: the tuned one also where it was merged for the release: several adapters can share one base.

    Raises:
        DataError: the run has no model yet, or one that does not answer.
    """
    from luthier.models.load import training_dtype

    if run.recipe.objective.kind == "reward":
        raise DataError("a reward model gives scores, it does not answer", where=run.name, fix="open another run")
    start = find_base(run.recipe.model, run.home)
    merged = "release" in run.artifacts and (run.artifact("release").path("model") / "config.json").exists()
    if merged and not (adapter and _tuning(run).kind not in ("full", "freeze")):
        found = run.artifact("release")
        dtype = training_dtype(run.recipe.model.dtype)
        return Opened("released model", found.path("model"), start, dtype, f"{found.sha256} released {dtype}")
    if "model" not in run.artifacts:
        raise DataError("the run has no model yet", where=run.name, fix=f"luthier run {run.folder}")
    found, dtype = run.artifact("model"), run.artifact("plan").json("plan.json")["dtype"]
    what = "tuned model" if "release" in run.artifacts else "tuned model, not released"
    return Opened(what, found.folder, start, dtype, f"{start.identity()} {found.sha256} {dtype}", _tuning(run))


def open_base(run: Run) -> Opened:
    """The model that a run began with."""
    from luthier.models.load import training_dtype

    start = find_base(run.recipe.model, run.home)
    dtype = training_dtype(run.recipe.model.dtype)
    return Opened("base model", start.folder, start, dtype, f"{start.identity()} base {dtype}")


def _tuning(run: Run) -> Tuning:
    tuning: Tuning = TypeAdapter(Tuning).validate_python(run.artifact("plan").json("plan.json")["tuning"])
    return tuning
