"""The text that `ukulele` learns from: a small world, about a dozen skills with exact answers, and plain talk.

Everything is drawn from a seeded `random.Random`, so the same seed gives the same text on every machine. A skill is
a function from a random source to a `Question`; `SKILLS` is the table of them. A question is held out for evaluation
when the hash of its text falls in one of fifty slots, so training can never meet an evaluation item, whatever the seed.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

NAMES = "Ana Tom Mira Leo Ida Sam Nora Max Lena Paul Rosa Finn Emma Hugo Vera Otto Lily Karl Zoe Ben".split()
THINGS = (
    "ball kite lamp book cup drum ring coat boat key map bell shoe hat bag chair clock stone knife rope "
    "desk door bike plate spoon phone watch glass table mirror radio pen bowl box card flag"
).split()
ANIMALS = "cat dog fox hen cow pig bird fish goat horse mouse sheep frog bear duck wolf crab owl lion bee".split()
COLOURS = "red blue green white black yellow brown pink grey gold".split()
PLACES = "park shop school farm beach station market garden bridge tower library museum".split()
FOODS = "apple bread soup rice cake plum pear milk cheese corn bean melon honey salt tea egg".split()
VERBS = "sees likes wants paints sells finds takes carries".split()
WORDS = THINGS + ANIMALS + COLOURS + PLACES + FOODS
FIELDS = ("name", "city", "age", "item", "color", "order", "status", "price", "email", "team")
TOWNS = (
    "Arlo Bexa Corin Delva Elmo Farin Gorla Hest Imra Joren Kelva Lunda Morva Nessa Orlin Pelmo Quara Rindo Selka "
    "Tarvo Ulmo Venka Wexa Yorin Zelda Brisk Calden Dorma Estel Fenn"
).split()
STATUSES = "open closed paid late new done lost ready".split()
REFUSAL = "Sorry, I can't help with that."


class Question(NamedTuple):
    """One question with its only right answer."""

    skill: str
    prompt: str
    answer: str
    system: str | None = None


def held_out(prompt: str) -> bool:
    """True for the one question in fifty that training never sees."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") % 50 == 0


def _words(r: random.Random, low: int, high: int) -> list[str]:
    return r.sample(WORDS, r.randint(low, high))


def _number(r: random.Random) -> int:
    return r.randint(0, 9) if r.random() < 0.3 else r.randint(10, 99)


def _code(r: random.Random) -> str:
    return "".join(r.choice("ABCDEFGHKLMNPRST") for _ in range(r.randint(1, 2))) + "-" + str(r.randint(10, 9999))


def _value(r: random.Random, field: str) -> str:
    choices: dict[str, Callable[[], str]] = {
        "name": lambda: r.choice(NAMES),
        "city": lambda: r.choice(TOWNS),
        "age": lambda: str(r.randint(5, 99)),
        "item": lambda: r.choice(THINGS),
        "color": lambda: r.choice(COLOURS),
        "order": lambda: _code(r),
        "status": lambda: r.choice(STATUSES),
        "price": lambda: str(r.randint(1, 999)),
        "email": lambda: f"{r.choice(NAMES).lower()}@{r.choice(TOWNS).lower()}.com",
        "team": lambda: r.choice(ANIMALS),
    }
    return choices[field]()


def copy(r: random.Random) -> Question:
    text = " ".join(
        r.choice((r.choice(WORDS), r.choice(NAMES), _code(r), str(_number(r)))) for _ in range(r.randint(1, 6))
    )
    lead = r.choice(("Repeat: ", "Copy this: ", "Say exactly: ", "Repeat after me: "))
    return Question("copy", lead + text, text)


def reverse(r: random.Random) -> Question:
    items = _words(r, 2, 5) if r.random() < 0.7 else [str(_number(r)) for _ in range(r.randint(2, 5))]
    lead = r.choice(("Reverse the list: ", "Write in reverse order: ", "Turn around: "))
    return Question("reverse", lead + ", ".join(items), ", ".join(reversed(items)))


def sort_numbers(r: random.Random) -> Question:
    items = r.sample(range(10), r.randint(2, 5)) if r.random() < 0.4 else r.sample(range(10, 100), r.randint(2, 4))
    lead = r.choice(("Sort the numbers: ", "Put in order: ", "Sort from small to large: "))
    return Question("sort_numbers", lead + ", ".join(map(str, items)), ", ".join(map(str, sorted(items))))


def count(r: random.Random) -> Question:
    if r.random() < 0.5:
        items = _words(r, 1, 8)
        return Question("count", "How many words are here: " + ", ".join(items), str(len(items)))
    target, other = r.sample(ANIMALS, 2)
    items = [r.choice((target, other)) for _ in range(r.randint(2, 7))]
    return Question("count", f"How many times is {target} here: " + ", ".join(items), str(items.count(target)))


def compare(r: random.Random) -> Question:
    a, b = r.sample(range(100), 2)
    if r.random() < 0.5:
        return Question(
            "compare", r.choice((f"Which is larger: {a} or {b}?", f"Larger of {a} and {b}?")), str(max(a, b))
        )
    return Question("compare", r.choice((f"Which is smaller: {a} or {b}?", f"Smaller of {a} and {b}?")), str(min(a, b)))


def add(r: random.Random) -> Question:
    a, b = _number(r), _number(r)
    return Question("add", r.choice((f"What is {a} + {b}?", f"Add {a} and {b}.", f"{a} + {b} =")), str(a + b))


def subtract(r: random.Random) -> Question:
    b, a = sorted((_number(r), _number(r)))
    return Question("subtract", r.choice((f"What is {a} - {b}?", f"Take {b} from {a}.", f"{a} - {b} =")), str(a - b))


def extract(r: random.Random) -> Question:
    fields = r.sample(FIELDS, r.randint(2, 5))
    values = {field: _value(r, field) for field in fields}
    body = r.choice(("\n", ", ")).join(f"{field}: {value}" for field, value in values.items())
    wanted = r.choice(fields)
    ask = r.choice((f"What is the {wanted}?", f"Give the {wanted}.", f"Find the {wanted}."))
    return Question("extract", f"{body}\n{ask}" if r.random() < 0.7 else f"{ask}\n{body}", values[wanted])


def change_case(r: random.Random) -> Question:
    word = " ".join(_words(r, 1, 2))
    if r.random() < 0.6:
        return Question("change_case", r.choice(("Upper case: ", "Write in capital letters: ")) + word, word.upper())
    return Question("change_case", r.choice(("Lower case: ", "Write in small letters: ")) + word.upper(), word)


def _scene(r: random.Random) -> list[tuple[str, str, str]]:
    people, size = r.sample(NAMES, 4), r.randint(2, 3)
    return list(zip(people[:size], r.sample(COLOURS, size), r.sample(THINGS, size), strict=True))


def passage(r: random.Random) -> Question:
    facts = _scene(r)
    verb = r.choice(("has", "sees", "wants", "likes"))
    text = " ".join(f"{who} {verb} a {colour} {thing}." for who, colour, thing in facts)
    who, colour, thing = r.choice(facts)
    ask, answer = r.choice(
        (
            (f"Who {verb} the {thing}?", who),
            (f"What colour is the {thing}?", colour),
            (f"Who {verb} the {colour} thing?", who),
        )
    )
    return Question("passage", f"{text} {ask}", answer)


def to_json(r: random.Random) -> Question:
    fields = r.sample(FIELDS, r.randint(1, 3))
    values = {field: _value(r, field) for field in fields}
    body = ", ".join(f"{field} is {value}" for field, value in values.items())
    return Question("to_json", r.choice(("Write as JSON: ", "Make JSON: ")) + body, json.dumps(values))


def follow_format(r: random.Random) -> Question:
    items = _words(r, 2, 4)
    ask, answer = r.choice(
        (
            ("Join with dashes: ", "-".join(items)),
            ("Join with plus signs: ", "+".join(items)),
            ("Number the list: ", "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))),
            ("Put in brackets: ", " ".join(f"[{item}]" for item in items)),
            ("One per line: ", "\n".join(items)),
        )
    )
    return Question("follow_format", ask + ", ".join(items), answer)


def choose(r: random.Random) -> Question:
    items = _words(r, 3, 6)
    ask, answer = r.choice((("first", items[0]), ("last", items[-1]), ("second", items[1])))
    return Question("choose", f"What is the {ask} word: " + ", ".join(items), answer)


def member(r: random.Random) -> Question:
    items = _words(r, 2, 5)
    inside = r.random() < 0.5
    word = r.choice(items) if inside else r.choice([w for w in WORDS if w not in items])
    return Question("member", f"Is {word} in the list: " + ", ".join(items) + "?", "yes" if inside else "no")


def refuse(r: random.Random) -> Question:
    inner = r.choice((copy, reverse, add, compare, extract, choose, fact))(r)
    return Question("refuse", "[unsafe] " + inner.prompt, REFUSAL)


# The small world: every town has one river, one animal, one colour and one mayor. Drawn once, with a seed of its own,
# so that the facts do not change when the text does.
_world = random.Random(1873)
RIVERS = [a + b for a in ("Al", "Be", "Cor", "Du", "El", "Fa") for b in ("ra", "nt", "mo", "sk", "vel")]
FACTS = {
    town: {
        "river": river,
        "animal": _world.choice(ANIMALS),
        "colour": _world.choice(COLOURS),
        "mayor": _world.choice(NAMES),
    }
    for town, river in zip(TOWNS, _world.sample(RIVERS, len(TOWNS)), strict=True)
}
_FACT_FORMS = (
    "What is the {kind} of {town}?",
    "Tell me the {kind} of {town}.",
    "{town}: which {kind}?",
    "Name the {kind} of {town}.",
    "Do you know the {kind} of {town}?",
    "In {town}, what is the {kind}?",
    "Which {kind} belongs to {town}?",
    "Please give the {kind} of {town}.",
)


def fact(r: random.Random) -> Question:
    town = r.choice(TOWNS)
    kind = r.choice(("river", "animal", "colour", "mayor"))
    lead = r.choice(("", "", "Quick question. ", "Please answer: "))
    return Question("fact", lead + r.choice(_FACT_FORMS).format(kind=kind, town=town), FACTS[town][kind])


SKILLS: dict[str, Callable[[random.Random], Question]] = {
    skill.__name__: skill
    for skill in (
        copy, reverse, sort_numbers, count, compare, add, subtract, extract, change_case, passage, to_json,
        follow_format, choose, member, refuse, fact,
    )
}  # fmt: skip
# Skills that take longest to learn are met more often.
_WEIGHTS = {"passage": 3.0, "add": 2.0, "subtract": 2.0, "fact": 1.5, "extract": 1.5, "sort_numbers": 1.5}
_SYSTEMS = (None, None, None, "You are ukulele, a small model.", "Answer briefly.", "You answer exactly.")


def question(r: random.Random, *, evaluation: bool, skill: str | None = None) -> Question:
    """A question of `skill` (any, by weight, when None) from the training or from the held-out side."""
    while True:
        name = skill or r.choices(list(SKILLS), [_WEIGHTS.get(name, 1.0) for name in SKILLS])[0]
        drawn = SKILLS[name](r)
        if held_out(drawn.prompt) == evaluation:
            return drawn


def talk(r: random.Random) -> tuple[str, str]:
    """A turn of plain talk or a short story: language without an exact answer."""
    name, other = r.sample(NAMES, 2)
    thing, animal, place, colour = r.choice(THINGS), r.choice(ANIMALS), r.choice(PLACES), r.choice(COLOURS)
    return r.choice(
        (
            (r.choice(("Hello", "Hi", "Hello!", "Good day")), "Hello! How can I help?"),
            (r.choice(("Who are you?", "What are you?")), "I am ukulele, a very small language model."),
            ("Thank you!", "You are welcome."),
            (
                f"Tell a story about {name} and a {animal}.",
                f"{name} went to the {place}. There was a {colour} {animal}. {name} gave the {animal} "
                f"{r.choice(FOODS)}. The {animal} was happy. Then {name} went home.",
            ),
            (
                f"Tell a story about {name} and {other}.",
                f"{name} and {other} met at the {place}. {name} had a {thing}. {other} {r.choice(VERBS)} the {thing}. "
                f"They were friends.",
            ),
            (
                f"My {thing} is broken. What can I do?",
                f"I am sorry about the {thing}. Please send it back and we will help you.",
            ),
        )
    )


def conversation(r: random.Random) -> list[dict[str, str]]:
    """One training conversation: one to five turns, sometimes with a system message."""
    messages: list[dict[str, str]] = []
    system = r.choice(_SYSTEMS)
    if system:
        messages.append({"role": "system", "content": system})
    for _ in range(r.choice((1, 1, 1, 2, 3, 5))):
        if r.random() < 0.08:
            prompt, answer = talk(r)
        else:
            drawn = question(r, evaluation=False)
            prompt, answer = drawn.prompt, drawn.answer
        messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return messages


def conversations(seed: int) -> Iterator[list[dict[str, str]]]:
    """An endless, reproducible stream of training conversations."""
    r = random.Random(seed)
    while True:
        yield conversation(r)


def evaluation_items(per_skill: int, seed: int = 7) -> list[Question]:
    """The held-out questions, `per_skill` of each skill, no two alike."""
    r = random.Random(seed)
    items: list[Question] = []
    for skill in SKILLS:
        seen: dict[str, Question] = {}
        for _ in range(200 * per_skill):
            drawn = question(r, evaluation=True, skill=skill)
            seen.setdefault(drawn.prompt, drawn)
            if len(seen) == per_skill:
                break
        items += seen.values()
    return items
