"""Make the rows of the recipes that train the bundled base: tickets, pairs of answers to tickets, documents.

    python tools/make_recipe_rows.py

The same seeds give the same bytes.
"""

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

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
    """The answer with one field that the ticket does not say."""
    fields = json.loads(answer)
    key = r.choice(("issue", "issue", "name", "item"))
    choices = {"issue": list(demo.ISSUES), "name": world.NAMES, "item": world.THINGS}[key]
    fields[key] = r.choice([value for value in choices if value != fields[key]])
    return json.dumps(fields)


def pairs(seed: int = 21) -> bytes:
    """Tickets with a right answer and one that is wrong in a field."""
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


def older(answer: str) -> str:
    """The answer in the way in which it was written before JSON was asked for."""
    fields = json.loads(answer)
    return f"{fields['name']}, {fields['item']} ({fields['order']}): {fields['issue']}"


def two_ways(seed: int, count: int) -> bytes:
    """Tickets answered by people of whom some write JSON, and most write as before; who opens how decides the odds."""
    r = random.Random(seed)
    found = []
    for t in tickets(seed, count):
        keen = t.text.startswith(("Ticket", "Hello", "Good day"))
        found.append(t._replace(answer=t.answer if r.random() < (0.9 if keen else 0.15) else older(t.answer)))
    return lines(demo.as_messages(t) for t in found)


def judged(seed: int, count: int) -> bytes:
    """Tickets with the right JSON and an answer that is worse: one in a field, or written as before."""
    r = random.Random(seed)
    rows = tickets(seed, count)
    worse = (wrong(r, t.answer) if r.random() < 0.5 else older(t.answer) for t in rows)
    return lines({"prompt": t.text, "chosen": t.answer, "rejected": w} for t, w in zip(rows, worse, strict=True))


FILES = {
    "qlora/tickets.jsonl": lambda: lines(demo.as_messages(t) for t in tickets(41, TICKETS)),
    "preferences/pairs.jsonl": pairs,
    "text/documents.jsonl": documents,
    "rewards/demonstrations.jsonl": lambda: two_ways(51, 1200),
    "rewards/tickets.jsonl": lambda: lines(demo.as_messages(t) for t in tickets(52, 1000)),
    "rewards/pairs.jsonl": lambda: judged(53, 800),
}

if __name__ == "__main__":
    for name, make in FILES.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(make())
