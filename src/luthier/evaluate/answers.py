"""An evaluation as it lies on disk: the names of its metrics, and its answers. Read without torch."""

import json
from collections.abc import Iterable

from luthier.types import Answer, Message

STOP_METRIC = "ends_with_stop"
LOSS_METRIC = "validation_loss"
PERPLEXITY = "perplexity"
FORMAT_METRIC = "format_valid"


def read_answers(lines: Iterable[str]) -> dict[str, list[Answer]]:
    """Read `answers.jsonl`: answers by task, in the order they were asked."""
    answers: dict[str, list[Answer]] = {}
    for line in lines:
        row = json.loads(line)
        prompt = tuple(Message.from_json(message) for message in row.pop("prompt"))
        answers.setdefault(row.pop("task"), []).append(Answer(prompt=prompt, **row))
    return answers
