"""Every error Luthier raises on purpose.

    LuthierError
    |-- RecipeError      2  the recipe or the command line asks for something that does not exist
    |-- DataError        3  rows, files or folders that cannot be used
    |   `-- TemplateError    a conversation that the chat template cannot train exactly
    |-- CheckFailed      4  a check on the model failed
    |   |-- TrainingStopped  non-finite loss, zero gradient, weights that do not move
    |   |-- ReviewNeeded     the recipe asks for a review of the rows, and it is not passed
    |   |-- GateFailed       the gate's verdict is not "pass"
    |   `-- ParityFailed     the merged model is not the trained one
    |-- Missing          5  a package, a device or disk space is missing
    `-- Interrupted    130  stopped by the user; the state is saved

An error says what happened, where, and what to run next. The number is the exit code of the command line; anything
that is not a `LuthierError` is a bug of ours and ends with exit code 1 and a traceback.
"""

from typing import Any


class LuthierError(Exception):
    """What happened (`what`), where (`where`: file, line, row or key) and what to do next (`fix`)."""

    exit_code = 1
    run: Any = None
    """The run that was being worked on, for whoever reports the error."""

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:  # so that an error comes whole from another process
        return _again, (type(self), self.what, self.where, self.fix)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.fix}" if self.fix else text


def _again(cls: type[LuthierError], what: str, where: str | None, fix: str | None) -> LuthierError:
    return cls(what, where=where, fix=fix)


class RecipeError(LuthierError):
    """The recipe, an override or an option asks for something that does not exist or cannot work."""

    exit_code = 2


class DataError(LuthierError):
    """An input file, a row or an artifact cannot be used."""

    exit_code = 3


class TemplateError(DataError):
    """The model's chat template cannot express a conversation so that it trains exactly what is served."""


class CheckFailed(LuthierError):  # noqa: N818 - a state, not a mistake
    """The model did not pass a check."""

    exit_code = 4


class TrainingStopped(CheckFailed):
    """Training cannot go on: the loss or the gradient is not finite, or nothing moves."""


class ReviewNeeded(CheckFailed):
    """The recipe asks that a person looks at rows before training, and too few are seen or too many have defects."""


class GateFailed(CheckFailed):
    """The gate did not say "pass"."""


class ParityFailed(CheckFailed):
    """The model about to be released does not answer as the trained one does."""


class Missing(LuthierError):  # noqa: N818 - a state, not a mistake
    """Something this machine lacks: a package, a GPU, disk space."""

    exit_code = 5


class Interrupted(LuthierError):  # noqa: N818 - a state, not a mistake
    """Stopped by the user after the state was saved."""

    exit_code = 130
