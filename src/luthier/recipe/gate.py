"""Section `gate`: rules over metrics, each a line one can read."""

import re
from typing import Annotated, NamedTuple

from pydantic import Field, field_validator

from luthier.recipe.section import Section


class Rule(NamedTuple):
    """A parsed rule: `metric`, the verb, its number (None for `improves`) and the second one of `between`."""

    metric: str
    verb: str
    bound: float | None
    text: str
    upper: float | None = None


_FORMS = {
    "improves": re.compile(r"^(?P<metric>\S+) improves$"),
    "drops at most": re.compile(r"^(?P<metric>\S+) drops at most (?P<bound>\d*\.?\d+)$"),
    "rises at most": re.compile(r"^(?P<metric>\S+) rises at most (?P<bound>\d*\.?\d+)$"),
    "between": re.compile(r"^(?P<metric>\S+) between (?P<bound>-?\d*\.?\d+) and (?P<upper>-?\d*\.?\d+)$"),
    "at least": re.compile(r"^(?P<metric>\S+) at least (?P<bound>-?\d*\.?\d+)$"),
    "at most": re.compile(r"^(?P<metric>\S+) at most (?P<bound>-?\d*\.?\d+)$"),
}


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        ValueError: it has none of the six forms.
    """
    line = " ".join(text.split())
    for verb, form in _FORMS.items():
        if match := form.match(line):
            found = match.groupdict()
            numbers = [float(found[name]) if name in found else None for name in ("bound", "upper")]
            return Rule(found["metric"], verb, numbers[0], line, numbers[1])
    raise ValueError(
        f"'{text}' is not a rule; write 'METRIC improves', 'METRIC drops at most X', 'METRIC rises at most X', "
        "'METRIC at least X', 'METRIC at most X' or 'METRIC between X and Y'"
    )


class Gate(Section):
    """Whether the tuned model may be released."""

    rules: list[str] | None = None
    """Rules such as `exact_match improves`, `ukulele-skills drops at most 0.03`, `ends_with_stop at least 0.99`,
    `length_ratio between 0.8 and 1.25`. When not given: every task improves (the validation loss, where there is no
    task); no suite gets worse by more than its margin (see docs/gate.md); answers end with the stop token in at least
    0.95; nothing of the suites is in the training data, and no answer repeats a training row."""
    accept_inconclusive: bool = False
    """Release although a rule could not be decided with the items at hand."""
    signed_by: str = ""
    """Who takes responsibility for that; stands in the verdict."""
    calibration: Annotated[int, Field(ge=0)] = 200
    """Items of each suite that the base model answers a second time, in other batches, to see what changes by chance
    alone; 0 leaves it out."""
    reserve: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each suite's items that are asked only where the others cannot decide. There are at most two looks, with
    1 % and 4 % chance of a false alarm; without a reserve one look with 5 %."""

    @field_validator("rules")
    @classmethod
    def _readable(cls, rules: list[str] | None) -> list[str] | None:
        for rule in rules or ():
            parse_rule(rule)
        return rules
