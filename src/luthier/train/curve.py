"""What the two curves of a run say together."""

from collections.abc import Sequence

from luthier.events import Step, Validated

NOTICEABLE = 0.02
"""Share by which the validation loss has to rise over its best to be called a rise."""


def overfitting(steps: Sequence[Step], validations: Sequence[Validated]) -> str | None:
    """A sentence when the validation loss rose after its best while the training loss went on falling.

    The training loss at a validation is the mean over the updates since the one before.
    """
    if len(validations) < 2:
        return None
    best = min(validations, key=lambda v: v.loss)
    last = validations[-1]
    if last.step <= best.step or last.loss <= best.loss + NOTICEABLE * abs(best.loss):
        return None
    before = max((v.step for v in validations if v.step < best.step), default=0)
    late = max(v.step for v in validations if v.step < last.step)
    then = [s.loss for s in steps if before < s.step <= best.step]
    now = [s.loss for s in steps if late < s.step <= last.step]
    if not then or not now or sum(now) / len(now) >= sum(then) / len(then):
        return None
    return (
        f"overfitting: after update {best.step} the validation loss rose from {best.loss:.3f} to {last.loss:.3f} while "
        f"the training loss fell from {sum(then) / len(then):.3f} to {sum(now) / len(now):.3f}; the weights of update "
        f"{best.step} are kept. More rows, fewer epochs or an adapter with fewer parameters would help"
    )
