"""Make the demo rows: support tickets in plain words with their JSON, and the faults that real exports have.

    python tools/make_demo_rows.py --out src/luthier/pipeline/default/tickets.jsonl

The same seed gives the same bytes. A ticket is put together from parts (who, what, how it is said), so that no phrasing
stands often enough to be learned by heart. The faults are planted on purpose: curating finds each and says why.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "ukulele"))

import world

SEED = 11
GOOD_ROWS = 406
DUPLICATES = 25

ISSUES = {
    "broken": ("is broken", "came broken", "does not work", "stopped working", "is in two parts"),
    "late": ("is late", "is not here yet", "has not come yet", "should be here by now", "takes too long to come"),
    "lost": ("is lost", "got lost", "was lost on the way", "went to the wrong house", "is gone"),
    "wrong color": ("has the wrong color", "is {have}, not {want}", "should be {want} but is {have}", "came in {have}"),
}
OPENINGS = (
    "Hello, this is {name}. {body}",
    "Hi, my name is {name}. {body}",
    "{name} here. {body}",
    "I am {name}. {body}",
    "Good day, I am {name}. {body}",
    "{body} Thank you, {name}",
    "{body} My name is {name}.",
    "{body} Yours, {name}",
    "Ticket from {name}: {body}",
)
BODIES = (
    "My {item} from order {order} {issue}.",
    "The {item} of order {order} {issue}.",
    "Order {order}: the {item} {issue}.",
    "About order {order}. The {item} {issue}.",
    "I paid for a {item} with order {order}. It {issue}.",
    "I want help with order {order}. My {item} {issue}.",
    "The {item} I ordered {issue}. The order is {order}.",
    "My new {item} {issue}, order {order}.",
    "It is about my {item}. It {issue}. The order was {order}.",
    "Can you look at {order}? The {item} {issue}.",
)
TAILS = ("", "", "", " Please help.", " What can I do?", " I am not happy.", " Can you send a new one?")


class Ticket(NamedTuple):
    """What a customer wrote, and what should be made of it."""

    text: str
    answer: str


def ticket(r: random.Random) -> Ticket:
    name, item = r.choice(world.NAMES), r.choice(world.THINGS)
    order = "".join(r.sample("ABCDEFGHKLMNPRST", 2)) + f"-{r.randint(10, 9999)}"
    issue = r.choice(list(ISSUES))
    want, have = r.sample(world.COLOURS, 2)
    said = r.choice(ISSUES[issue]).format(want=want, have=have)
    body = r.choice(BODIES).format(item=item, order=order, issue=said) + r.choice(TAILS)
    text = r.choice(OPENINGS).format(name=name, body=body)
    return Ticket(text, json.dumps({"name": name, "item": item, "order": order, "issue": issue}))


def as_messages(t: Ticket) -> object:
    return {"messages": [{"role": "user", "content": t.text}, {"role": "assistant", "content": t.answer}]}


def as_sharegpt(t: Ticket) -> object:
    return {"conversations": [{"from": "human", "value": t.text}, {"from": "gpt", "value": t.answer}]}


def as_alpaca(t: Ticket) -> object:
    return {"instruction": t.text, "input": "", "output": t.answer}


def as_prompt(t: Ticket) -> object:
    return {"prompt": t.text, "completion": t.answer}


def as_question(t: Ticket) -> object:
    return {"question": t.text, "answer": t.answer}


SHAPES: dict[Callable[[Ticket], object], float] = {
    as_messages: 0.7, as_sharegpt: 0.1, as_alpaca: 0.08, as_prompt: 0.07, as_question: 0.05,
}  # fmt: skip


def line(row: object) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def shaped(r: random.Random, t: Ticket) -> bytes:
    return line(r.choices(list(SHAPES), list(SHAPES.values()))[0](t))


def faults(r: random.Random) -> list[bytes]:
    """Lines of which no row can be made: half ones, ones in another encoding, answers that are not there, ..."""

    def turns(*pairs: tuple[str, object]) -> bytes:
        return line({"messages": [{"role": role, "content": content} for role, content in pairs]})

    def halved(t: Ticket) -> bytes:
        whole = line(as_messages(t))
        return whole[: r.randint(20, len(whole) - 4)]

    def in_latin(t: Ticket) -> bytes:
        return line(as_messages(t)).replace(b"order", "ordér".encode("latin-1"), 1)

    makers: list[tuple[int, Callable[[Ticket], bytes]]] = [
        (6, halved),
        (3, in_latin),
        (2, lambda t: line([t.text, t.answer])),
        (4, lambda t: turns(("user", t.text), ("assistant", r.choice(("", " ", "\n"))))),
        (1, lambda t: turns(("user", ""), ("assistant", t.answer))),
        (2, lambda t: turns(("user", t.text))),
        (2, lambda t: turns(("user", t.text), ("user", "Hello?"), ("assistant", t.answer))),
        (2, lambda t: turns(("assistant", t.answer), ("user", t.text))),
        (1, lambda t: turns(("customer", t.text), ("assistant", t.answer))),
        (2, lambda t: turns(("user", t.text), ("assistant", json.loads(t.answer)))),
        (2, lambda t: line({"ticket": t.text, "json": t.answer})),
        (1, lambda t: turns(("user", t.text + " Please help." * 800), ("assistant", t.answer))),
    ]
    return [make(ticket(r)) for count, make in makers for _ in range(count)]


def rows(seed: int = SEED) -> bytes:
    """The whole file."""
    r = random.Random(seed)
    good: dict[str, Ticket] = {}
    while len(good) < GOOD_ROWS:
        drawn = ticket(r)
        good.setdefault(drawn.text, drawn)
    again = r.sample(list(good.values()), DUPLICATES)  # in whatever shape: it is the conversation that is the same
    lines = [shaped(r, t) for t in (*good.values(), *again)] + faults(r)
    r.shuffle(lines)
    return b"\n".join(lines) + b"\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("src/luthier/pipeline/default/tickets.jsonl"))
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    given.out.write_bytes(rows(given.seed))
