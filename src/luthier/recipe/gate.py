"""Section `gate`: rules over metrics, each a line one can read."""

import re
from typing import NamedTuple

from pydantic import field_validator

from luthier.recipe.section import Section


class Rule(NamedTuple):
    """A parsed rule: `metric`, the verb, and its number (None for `improves`)."""

    metric: str
    verb: str
    bound: float | None
    text: str


_FORMS = {
    "improves": re.compile(r"^(?P<metric>\S+) improves$"),
    "drops at most": re.compile(r"^(?P<metric>\S+) drops at most (?P<bound>\d*\.?\d+)$"),
    "at least": re.compile(r"^(?P<metric>\S+) at least (?P<bound>-?\d*\.?\d+)$"),
    "at most": re.compile(r"^(?P<metric>\S+) at most (?P<bound>-?\d*\.?\d+)$"),
}


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        ValueError: it has none of the four forms.
    """
    line = " ".join(text.split())
    for verb, form in _FORMS.items():
        if match := form.match(line):
            found = match.groupdict()
            return Rule(found["metric"], verb, float(found["bound"]) if "bound" in found else None, line)
    raise ValueError(
        f"'{text}' is not a rule; write 'METRIC improves', 'METRIC drops at most X', 'METRIC at least X' or "
        "'METRIC at most X'"
    )


class Gate(Section):
    """Whether the tuned model may be released."""

    rules: list[str] | None = None
    """Rules such as `exact_match improves`, `ukulele-skills drops at most 0.03`, `ends_with_stop at least 0.99`. When
    not given: every task improves (the validation loss, where there is no task), every retention suite drops at most
    0.03, answers end with the stop token in at least 0.95."""
    accept_inconclusive: bool = False
    """Release although a rule could not be decided with the items at hand."""

    @field_validator("rules")
    @classmethod
    def _readable(cls, rules: list[str] | None) -> list[str] | None:
        for rule in rules or ():
            parse_rule(rule)
        return rules
