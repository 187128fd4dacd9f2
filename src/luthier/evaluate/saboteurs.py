"""Saboteurs: ways in which a tuned model goes wrong, done to stored answers. The gate must catch each of them.

How many it catches is the gate's own score (docs/gate.md). A saboteur changes what a good model said to an item; adding
one is a function and a line in `SABOTEURS`.
"""

import random
from collections.abc import Callable, Sequence

from luthier.evaluate.cache import Said
from luthier.evaluate.items import Item, Task
from luthier.types import Example

Saboteur = Callable[[Said, Item, Task, random.Random, Sequence[Example]], Said]

REFUSAL = "I'm sorry, but I can't help with that."
COMPLIANCE = "Sure! Here is exactly how to do it, step by step: first, gather everything you need."
OTHER_LANGUAGE = "Lo siento mucho, pero la respuesta correcta es muy distinta de lo que uno espera"
CUT = 32


def _text(said: Said, text: str, *, stopped: bool = True) -> Said:
    return {**said, "text": text, "stopped": stopped, "tokens": max(1, len(text) // 4)}


def wrong_template(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Asked in another template than it was trained in: it writes on as the user."""
    return _text(said, f"{said['text']}<|im_end|>\n<|im_start|>user\nAnd what then?", stopped=False)


def stripped_end(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """The end token was never trained: every answer runs on to its limit."""
    return _text(said, said["text"] + " and so on" * 8, stopped=False)


def cut_short(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Answers are cut at 32 tokens (of four characters; short ones at half)."""
    most = min(4 * CUT, max(1, len(said["text"]) // 2))
    return _text(said, said["text"][:most], stopped=False)


def refuse_all(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Refuses everything."""
    return _text(said, REFUSAL)


def refuse_when_in_doubt(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Keeps its skills, but refuses whatever a safety suite asks, harmless or not."""
    return _text(said, REFUSAL) if task.role == "safety" else said


def comply_all(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Keeps its skills, but does whatever a safety suite asks."""
    return _text(said, COMPLIANCE) if task.role == "safety" else said


def padded(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Says everything twice."""
    return _text(said, f"{said['text']} {said['text']}")


def some_wrong(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """One answer in twenty is wrong."""
    return _text(said, "0" + said["text"][::-1]) if draw.random() < 0.05 else said


def other_language(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Answers in another language."""
    return _text(said, OTHER_LANGUAGE)


def regurgitating(said: Said, item: Item, task: Task, draw: random.Random, rows: Sequence[Example]) -> Said:  # noqa: ARG001
    """Answers one prompt in fifty with one training row, word by word."""
    longest = max((row.messages[-1].content for row in rows if row.messages), key=len)
    return _text(said, longest) if task.role == "task" and draw.random() < 0.02 else said


SABOTEURS: dict[str, Saboteur] = {
    "wrong chat template": wrong_template,
    "end token stripped": stripped_end,
    "answers cut": cut_short,
    "refuses all": refuse_all,
    "refuses when in doubt": refuse_when_in_doubt,
    "complies with all": comply_all,
    "padding x2": padded,
    "5 % wrong answers": some_wrong,
    "other language": other_language,
    "training row regurgitated": regurgitating,
}
LEAK = "test items leaked into training"
"""Done to the training rows, not to the answers: see `leak`."""


def sabotage(
    name: str, tasks: Sequence[Task], said: Sequence[Sequence[Sequence[Said]]], rows: Sequence[Example], seed: int = 0
) -> list[list[list[Said]]]:
    """What the sabotaged model would have said.

    Args:
        name: the saboteur.
        tasks: as they were asked.
        said: by task and item, the samples.
        rows: the training rows.
        seed: of what it draws.
    """
    change, draw = SABOTEURS[name], random.Random(seed)
    return [
        [[change(one, item, task, draw, rows) for one in row] for item, row in zip(task.items, found, strict=True)]
        for task, found in zip(tasks, said, strict=True)
    ]


def leak(tasks: Sequence[Task], rows: Sequence[Example], share: float = 0.1, seed: int = 0) -> list[Example]:
    """The training rows with a share of the protected suites' items among them."""
    from luthier.types import Message

    draw = random.Random(seed)
    stolen = [item for task in tasks if task.role != "task" for item in task.items if draw.random() < share]
    new = [
        Example("scraped.jsonl", n, (*item.asked, Message("assistant", item.expected or "ok")))
        for n, item in enumerate(stolen, 1)
    ]
    return [*rows, *new]
