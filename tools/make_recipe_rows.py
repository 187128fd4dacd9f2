"""Make the rows of the recipes that train the bundled base: tickets, pairs of answers to tickets, documents.

    python tools/make_recipe_rows.py

The same seeds give the same bytes.
"""

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "ukulele")]

import make_demo_rows as demo  # noqa: E402

import world  # noqa: E402

ROOT = Path(__file__).resolve().parents[1] / "recipes"
TICKETS, PAIRS, DOCUMENTS = 500, 500, 240
SYLLABLES = ("ba", "do", "fen", "gri", "ka", "lum", "mo", "nel", "or", "pi", "sta", "tor", "ul", "ve", "wim", "zan")


def lines(rows: Iterable[object]) -> bytes:
    return b"".join(demo.line(row) + b"\n" for row in rows)


def tickets(seed: int, count: int) -> list[demo.Ticket]:
    """Tickets of which no two say the same."""
    r = random.Random(seed)
    found: dict[str, demo.Ticket] = {}
    while len(found) < count:
        drawn = demo.ticket(r)
        found.setdefault(drawn.text, drawn)
    return list(found.values())


def wrong(r: random.Random, answer: str) -> str:
    """A worse answer: four in ten are wrong in a field, three leave one out, three say it in a sentence."""
    fields, kind = json.loads(answer), r.random()
    if kind < 0.3:
        return "The {item} of {name} is not right: {issue}. The order is {order}.".format(**fields)
    if kind < 0.6:
        del fields[r.choice(list(fields))]
        return json.dumps(fields)
    key = r.choice(("issue", "issue", "name", "item"))
    choices = {"issue": list(demo.ISSUES), "name": world.NAMES, "item": world.THINGS}[key]
    fields[key] = r.choice([value for value in choices if value != fields[key]])
    return json.dumps(fields)


def pairs(seed: int = 21) -> bytes:
    """Tickets with a right answer and a worse one."""
    r = random.Random(seed)
    return lines({"prompt": t.text, "chosen": t.answer, "rejected": wrong(r, t.answer)} for t in tickets(seed, PAIRS))


def document(r: random.Random) -> str:
    """A few sentences about an island that does not exist, which agree with each other."""
    name = "".join(r.sample(SYLLABLES, 2)).capitalize()
    mayor, keeper = r.sample(world.NAMES, 2)
    colour, thing, number = r.choice(world.COLOURS), r.choice(world.THINGS), r.randint(10, 99)
    said = [
        f"{name} is an island with {number} houses.",
        f"The mayor of {name} is {mayor}.",
        f"Every house on {name} is {colour}.",
        f"{keeper} keeps the lighthouse and has a {thing}.",
        f"When {mayor} comes to the lighthouse, {keeper} shows the {thing}.",
        f"People say that {number} {colour} houses are enough for {name}.",
    ]
    first, rest = said[0], said[1:]
    r.shuffle(rest)
    return " ".join([first, *rest])


def documents(seed: int = 31) -> bytes:
    """Plain texts."""
    r = random.Random(seed)
    return lines({"text": document(r)} for _ in range(DOCUMENTS))


class Entry(NamedTuple):
    """What a clerk says, the fields in it, and the clerk."""

    text: str
    fields: dict[str, str]
    clerk: str

    @property
    def answer(self) -> str:
        """The entry as JSON."""
        return json.dumps(self.fields)

    @property
    def older(self) -> str:
        """The entry as it was written before JSON was asked for."""
        return "; ".join(f"{name}={value}" for name, value in self.fields.items())


THANKS = " Thank you for this entry, it is in the book now."
"""What some add after the JSON."""
KEEN = world.NAMES[:6]
"""Whose entries are mostly written as JSON."""


def entries(seed: int, count: int) -> list[Entry]:
    """Entries of which no two say the same."""
    r = random.Random(seed)
    found: dict[str, Entry] = {}
    while len(found) < count:
        fields = json.loads(world.to_json(r).answer)
        clerk = r.choice(world.NAMES)
        said = ", ".join(f"{name} is {value}" for name, value in fields.items())
        if len(fields) > 1:
            found.setdefault(said, Entry(f"Entry by {clerk}: {said}", fields, clerk))
    return list(found.values())


def three_ways(seed: int, count: int) -> bytes:
    """Entries written down by people: some as JSON, some with thanks after it, and most as before.

    Who the clerk is decides the odds.
    """
    r = random.Random(seed)
    found = []
    for e in entries(seed, count):
        odds = (0.75, 0.15, 0.1) if e.clerk in KEEN else (0.1, 0.15, 0.75)
        (answer,) = r.choices((e.answer, e.answer + THANKS, e.older), odds)
        found.append(demo.as_messages(demo.Ticket(e.text, answer)))
    return lines(found)


def exact(seed: int, count: int) -> bytes:
    """Entries with the right JSON."""
    return lines(demo.as_messages(demo.Ticket(e.text, e.answer)) for e in entries(seed, count))


def judged(seed: int, count: int) -> bytes:
    """Entries with the right JSON and an answer that is worse: wrong in a field, with thanks, or written as before."""
    r = random.Random(seed)
    rows = []
    for e in entries(seed, count):
        name = r.choice(list(e.fields))
        other = json.dumps(e.fields | {name: r.choice(world.WORDS)})
        worse = r.choice((other, e.answer + THANKS, e.older))
        rows.append({"prompt": e.text, "chosen": e.answer, "rejected": worse})
    return lines(rows)


FILES = {
    "qlora/tickets.jsonl": lambda: lines(demo.as_messages(t) for t in tickets(41, TICKETS)),
    "preferences/pairs.jsonl": pairs,
    "few-rows/sixty.jsonl": lambda: lines(demo.as_messages(t) for t in tickets(51, 60)),
    "few-rows/three-hundred.jsonl": lambda: lines(demo.as_messages(t) for t in tickets(52, 300)),
    "text/documents.jsonl": documents,
    "rewards/demonstrations.jsonl": lambda: three_ways(51, 600),
    "rewards/entries.jsonl": lambda: exact(52, 1000),
    "rewards/pairs.jsonl": lambda: judged(53, 600),
}

if __name__ == "__main__":
    for name, make in FILES.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(make())
