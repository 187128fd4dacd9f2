"""Items that a model may have seen in training, and answers that repeat a training row.

An item is burnt when its question and answer stand in one training row word by word, or when runs of 13 words in common
with one row cover at least half of a question of 26 words or more. A question of fewer than 8 words has to be a whole
question of a row: "5 + 27 =" stands in many a text by chance. A burnt item counts for nothing in the gate.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from luthier.evaluate.lexical import grams, words
from luthier.types import Answer, Example, Metric

RUN = 13
COVER = 0.5
LONG = 26
SHORT = 8
ECHO = 30
"""Words of a training answer in a row that are no chance; a whole training answer counts from `WHOLE` words on."""
WHOLE = 12


def text_of(example: Example) -> str:
    """A training row as one text."""
    return example.text if example.text is not None else "\n".join(turn.content for turn in example.messages)


def find_burnt(answers: Mapping[str, Sequence[Answer]], rows: Sequence[Example]) -> dict[str, list[str]]:
    """The burnt items of each task.

    Args:
        answers: by task; of each the prompt and what was expected are looked for.
        rows: the training rows.
    """
    texts = [" ".join(words(text_of(row))) for row in rows]
    whole = "\n".join(texts)
    asked = dict[str, list[str]]()
    for question, answer in (pair for row in rows for pair in _exchanges(row)):
        asked.setdefault(question, []).append(answer)
    runs: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        for run in grams(text, RUN):
            runs.setdefault(run, []).append(number)
    found: dict[str, list[str]] = {}
    for task, given in answers.items():
        burnt = {answer.item for answer in given if _burnt(answer, asked, whole, texts, runs)}
        if burnt:
            found[task] = sorted(burnt)
    return found


def _exchanges(row: Example) -> Iterator[tuple[str, str]]:
    """The words of each question in a row, and of its answer."""
    for asked, said in pairwise(row.messages):
        if (asked.role, said.role) == ("user", "assistant"):
            yield " ".join(words(asked.content)), " ".join(words(said.content))


def _burnt(
    answer: Answer,
    asked: Mapping[str, Sequence[str]],
    whole: str,
    texts: Sequence[str],
    runs: Mapping[int, Sequence[int]],
) -> bool:
    question = " ".join(words(" ".join(turn.content for turn in answer.prompt if turn.role == "user")))
    expected = " ".join(words(answer.expected))
    if not question:
        return False
    if len(question.split()) < SHORT:
        return any(_in_order(f"{question} {said}", question, expected) for said in asked.get(question, ()))
    if question in whole and any(_in_order(text, question, expected) for text in texts):
        return True
    said = question.split()
    if len(said) < LONG:
        return False
    covered: dict[int, set[int]] = {}
    for at in range(len(said) - RUN + 1):
        for number in runs.get(hash(tuple(said[at : at + RUN])), ()):
            covered.setdefault(number, set()).update(range(at, at + RUN))
    return any(len(places) >= COVER * len(said) for places in covered.values())


def _in_order(text: str, question: str, expected: str) -> bool:
    padded = f" {text} "
    at = padded.find(f" {question} ")
    return at >= 0 and (not expected or padded.find(f" {expected} ", at + len(question)) >= 0)


def leaked(burnt: Mapping[str, Sequence[str]], answers: Mapping[str, Sequence[Answer]], tasks: Sequence[str]) -> Metric:
    """How many items of these tasks are burnt: a count, for none may be."""
    count = sum(len(burnt.get(task, ())) for task in tasks)
    n = sum(len({answer.item for answer in answers.get(task, ())}) for task in tasks)
    return Metric("leaked", float(count), float(count), float(count), n, lower_is_better=True)


def regurgitated(answers: Sequence[Answer], rows: Sequence[Example]) -> tuple[float, list[str]]:
    """The share of answers that repeat a training answer where another was expected, and their items."""
    own = [" ".join(words(row.messages[-1].content)) for row in rows if row.messages]
    own += [" ".join(words(row.text)) for row in rows if row.text is not None]
    long = {text for text in own if len(text.split()) >= WHOLE}
    runs = {run for text in own for run in grams(text, ECHO)}
    items = []
    for answer in answers:
        said, expected = " ".join(words(answer.answer)), " ".join(words(answer.expected))
        if said == expected:
            continue
        echoes = grams(said, ECHO) & runs - grams(expected, ECHO)
        if echoes or any(text in said and text not in expected for text in _candidates(said, long)):
            items.append(answer.item)
    return (len(items) / len(answers) if answers else 0.0), items


def _candidates(said: str, long: set[str]) -> list[str]:
    """Training answers that may stand in what was said: for short texts all, else the text itself."""
    return [said] if said in long else [text for text in long if len(text) < len(said)] if len(long) < 5_000 else []
