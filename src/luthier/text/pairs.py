"""Pairs as token rows: both answers to one prompt, in each of which only the last answer is trained."""

from collections.abc import Sequence
from dataclasses import replace

from luthier.errors import TemplateError
from luthier.text.render import TrainingRow, render
from luthier.text.tokenizer import Tokenizer
from luthier.types import Pair


def render_pair(pair: Pair, tokenizer: Tokenizer) -> tuple[TrainingRow, TrainingRow]:
    """The chosen and the rejected conversation; trained is the last answer of each, its end token included.

    Raises:
        TemplateError: the template cannot express one of them, or both are the same tokens.
    """
    sides = []
    for name, turns in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        try:
            talk = [replace(turn, train=None) for turn in (*pair.prompt, *turns)]  # flags are for demonstrations
            rows = render(talk, tokenizer, tools=pair.tools or None, train="last")
        except TemplateError as error:
            raise TemplateError(f"{name}: {error.what}", where=error.where, fix=error.fix) from error
        sides.append(rows[-1])
    chosen, rejected = sides
    if chosen.ids == rejected.ids:
        raise TemplateError("the chosen and the rejected answer are the same")
    return chosen, rejected


def interleave(pairs: Sequence[tuple[TrainingRow, TrainingRow]]) -> list[TrainingRow]:
    """Pairs as rows in the order in which a dataset keeps them: row 2k is chosen, row 2k + 1 is rejected."""
    return [row for pair in pairs for row in pair]
