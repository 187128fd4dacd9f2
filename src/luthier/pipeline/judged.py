"""A language model as judge of two models' answers, and how far it agrees with people: `luthier compare --judge`."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.artifact import digest
from luthier.data.preferences import read_preference
from luthier.data.turns import RowError
from luthier.errors import DataError
from luthier.evaluate.items import Task
from luthier.evaluate.preference import Ballot, length_controlled
from luthier.evaluate.rows import need, read_rows
from luthier.evaluate.votes import Votes
from luthier.pipeline.candidate import open_candidate
from luthier.types import Answer, Json, Message

LABELS = ("first", "second", "tie")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Two answers to a question, and which one people prefer."""

    question: str
    one: str
    other: str
    label: str


def open_judge(model: str, url: str | None, key_env: str, runs: Path) -> Any:
    """Who judges: a model behind an endpoint that speaks OpenAI's protocol, or one that is loaded here."""
    from luthier.evaluate.judge import Endpoint, local

    return Endpoint(url, model, key_env) if url else local(open_candidate(model, runs))


def text_of(turns: Sequence[Message]) -> str:
    """A prompt as the judge reads it: one turn as it is, several with who said them."""
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def judge_models(
    ask: Any, tasks: Sequence[Task], names: tuple[str, str], one: dict[str, list[Answer]], two: dict[str, list[Answer]]
) -> dict[str, Any]:
    """How often the second model's answers are judged better, by verdicts that both orders give.

    Answers of equal text are not shown to the judge; they count as ties.
    """
    from luthier.evaluate.judge import compare, judge_win_rate

    pairs: list[tuple[str, str, str]] = []
    for task in tasks:
        other = {(answer.item, answer.sample): answer for answer in two[task.name]}
        pairs += [
            (text_of(answer.prompt), answer.answer, match.answer)
            for answer in one[task.name]
            if (match := other.get((answer.item, answer.sample))) is not None
        ]
    different = [pair for pair in pairs if pair[1].strip() != pair[2].strip()]
    said = compare(ask, different)
    verdicts = [*said, *["tie"] * (len(pairs) - len(different))]
    rate = judge_win_rate(verdicts)  # type: ignore[arg-type]
    first, second = names
    winners = {"first": first, "second": second, "tie": None}
    ballots = [
        Ballot(first, second, winners[verdict], question, "judge", math.log((len(a) + 1) / (len(b) + 1)))
        for verdict, (question, a, b) in zip(said, different, strict=True)
        if verdict is not None
    ]
    return {
        "win_rate": rate.value,
        "low": rate.low,
        "high": rate.high,
        "n": rate.n,
        "undecided": rate.failed,
        "same": len(pairs) - len(different),
        "length_controlled": length_controlled(ballots, second) if ballots else None,
    }


def read_labels(path: Path, most: int) -> tuple[list[Labelled], int]:
    """Pairs with a human label.

    A row has `prompt`, `first`, `second` and `label` (first, second or tie); or `chosen` and `rejected` in any of the
    forms that preference data comes in, which are then shown in an order drawn from their text. `most` of them, drawn
    evenly at random where there are more.

    Returns:
        The pairs, and how many rows were left out because an answer in them is empty or out of turn.

    Raises:
        DataError: a row is neither, or none is left.
    """
    rows = list(read_rows(path))
    if len(rows) > most:
        rows = random.Random(0).sample(rows, most)
    found: list[Labelled] = []
    left_out: list[str] = []
    for where, row in rows:
        try:
            found.append(_labelled(row, where))
        except RowError as error:
            left_out.append(error.args[-1])
    if not found:
        raise DataError(f"no row holds two answers: {left_out[0]}", where=str(path), fix="mend the rows")
    return found, len(left_out)


def _labelled(row: Json, where: str) -> Labelled:
    if "chosen" not in row:
        label = str(need(row, "label", where))
        if label not in LABELS:
            raise DataError(f"the label is '{label}', not first, second or tie", where=where, fix="mend this row")
        question, one, other = (str(need(row, key, where)) for key in ("prompt", "first", "second"))
        return Labelled(question, one, other, label)
    pair = read_preference(row)
    question = text_of(pair.prompt)
    chosen, rejected = text_of(pair.chosen), text_of(pair.rejected)
    swapped = int(digest([chosen, rejected])[:8], 16) % 2 == 1
    one, other = (rejected, chosen) if swapped else (chosen, rejected)
    return Labelled(question, one, other, "second" if swapped else "first")


def voted(path: Path, names: tuple[str, str]) -> list[Labelled]:
    """The pairs of two models that people voted on, with what most of them said; nothing where there is no file."""
    if not path.exists():
        return []
    return [Labelled(*row) for row in Votes(path).labels(*names)]


def calibrate_judge(ask: Any, labelled: Sequence[Labelled]) -> dict[str, Any]:
    """Kappa of the judge against people, and on how many pairs."""
    from luthier.evaluate.judge import calibrate, compare

    verdicts = compare(ask, [(pair.question, pair.one, pair.other) for pair in labelled])
    return calibrate(verdicts, [pair.label for pair in labelled])  # type: ignore[misc]
