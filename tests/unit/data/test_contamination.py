"""Evaluation items among rows: copies are found and dropped, paraphrases are found and looked at, the rest passes."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_encoder

from luthier.data import overlap
from luthier.data.contamination import Contamination
from luthier.data.overlap import Paraphrases, terms, windows
from luthier.data.step import EvaluationItem, Held, Row, Surroundings
from luthier.errors import RecipeError
from luthier.recipe import curate
from luthier.types import Example, Message

R = random.Random(8)
WORDS = ["".join(R.choices("abcdefghijklmnoprstuv", k=R.randint(4, 9))) for _ in range(2500)]
SMALL = "the a of and to in is how many are there with for on at".split()


def problem(i: int) -> tuple[str, str, str]:
    """A question, the same with half of its words exchanged and in another order, and its answer."""
    r = random.Random(i)
    words = [r.choice(SMALL if k % 2 else WORDS) for k in range(44)]
    numbers = [str(r.randint(2, 999)) for _ in range(3)]
    again = [r.choice(WORDS) if word not in SMALL and r.random() < 0.5 else word for word in words]
    r.shuffle(again)
    asked, said = (
        " ".join([*part[:11], numbers[0], *part[11:30], *numbers[1:], *part[30:]]) for part in (words, again)
    )
    return f"{asked}?", f"{said}?", str(sum(map(int, numbers)))


ITEMS = [EvaluationItem("sums", str(i), problem(i)[0], problem(i)[2]) for i in range(120)]


PIECES = [
    *(f" {word}" for item in ITEMS[:3] for word in item.prompt.split()),
    *" \n \x1c . , _ 7 A three Half. 1,200 3.5. x1y2 12,a ,4 .5".split(" "),
    *("\t ", "Caf\u00e9 ", "\u0663", " end "),
]
"""What texts are put together from: words and numbers of items, and what has to be told apart letter by letter."""


def chat(question: str, answer: str = "It depends.", line: int = 1) -> Row:
    return Row(Example("f", line, (Message("user", question), Message("assistant", answer))))


def step(items: list[EvaluationItem] = ITEMS, home: Path = Path(), **options: Any) -> Contamination:
    return Contamination(curate.Contamination(**options), Surroundings(home, items))


def run(rows: list[Row], found: Contamination) -> list[Any]:
    return list(found.resolve(Held(found, rows)))


def test_a_copy_drops_the_row_and_burns_nothing() -> None:
    found = step()
    (one,) = run([chat("hello"), chat(f"Solve. {ITEMS[7].prompt.upper()}", line=9)], found)
    assert (one.row, one.fate.name) == (1, "contamination")
    assert one.fate.reason.startswith("a copy of item 7 of sums (")
    report = found.report()
    assert report["items"] == 120
    assert report["burnt"] == 0
    assert [entry for entry in report["found"] if entry["score"] > 0.5] == [
        {"suite": "sums", "item": "7", "layer": "verbatim", "score": pytest.approx(one.fate.score, abs=1e-3)}
        | {"rows": 1, "kept": 0, "burnt": False, "first": "f:9"}
    ]


def test_a_copy_that_is_kept_for_review_burns_its_item() -> None:
    found = step(verbatim="review")
    (one,) = run([Row(Example("f", 3, text=f"Once upon a time.\n{ITEMS[3].prompt}\nThe end."))], found)
    assert one.fate is None
    assert one.risk > 0.5
    assert found.report()["burnt"] == 1


def test_half_of_an_item_in_eight_words_in_a_row_is_a_copy_and_less_is_none() -> None:
    words = ITEMS[0].prompt.split()
    item = [EvaluationItem("s", "0", " ".join(words[:20]), "")]
    broken = " ".join([*words[:10], "but", *words[10:20]])  # nowhere thirteen in a row
    assert run([chat(broken)], step(item, similar="off"))[0].fate is not None
    assert not run([chat(" ".join([*words[:8], "but", "then", *words[13:20]]))], step(item, similar="off"))


def test_an_item_of_few_words_needs_its_question_and_its_answer() -> None:
    found = step([EvaluationItem("s", "q", "What is the capital of Peru?", "Lima")], similar="off")
    assert run([chat("what is the capital of peru", "It is Lima.")], found)[0].fate.score == 1
    assert not run([chat("What is the capital of Peru?", "Cusco")], found)
    assert not run([chat("Tell me: what is the capital of Peru?", "Limassol")], found)


def test_what_many_items_share_proves_nothing() -> None:
    frame = (
        "You are a careful clerk. Read the order below and write down what was asked for, in as few words as you can:"
    )
    items = [EvaluationItem("s", str(i), f"{frame} {problem(i)[0]}", "") for i in range(50)]
    assert not run([chat(f"{frame} three lamps")], step(items, similar="off"))
    assert run([chat(f"{frame} {problem(3)[0]}")], step(items, similar="off"))[0].fate.reason.startswith(
        "a copy of item 3"
    )


def test_paraphrases_are_found_and_other_problems_are_not() -> None:
    """The bar is 80 % at 1 % false alarms; the data here are easier than real ones."""
    found = step()
    rows = [chat(problem(i)[1]) for i in range(120)] + [chat(problem(i)[0]) for i in range(1000, 2000)]
    said = {one.row: one for one in run(rows, found)}
    paraphrases = [said[i] for i in range(120) if i in said]
    assert len(paraphrases) >= 0.8 * 120
    assert all(one.fate is None and one.risk > 0 for one in paraphrases)
    right = sum(f"item {i} of sums" in said[i].note for i in range(120) if i in said)
    assert right >= 0.95 * len(paraphrases)
    assert sum(i >= 120 for i in said) <= 0.01 * 1000
    assert found.report()["burnt"] >= 0.8 * 120


def test_a_long_text_around_it_does_not_hide_a_paraphrase() -> None:
    filler = " ".join(R.choice(["sea", "wind", "hill", "stone", "tree"]) for _ in range(400))
    assert not run([Row(Example("f", 1, text=filler))], step())
    (one,) = run([Row(Example("f", 1, text=f"{filler} {problem(5)[1]} {filler}"))], step())
    assert "item 5 of sums" in one.note
    assert [len(part.split()) for part in windows(filler)] == [80] * 9
    assert list(windows("a b")) == ["a b"]


def test_similar_rows_can_be_dropped_or_left_alone() -> None:
    row = [chat(problem(1)[1])]
    assert run(row, step(similar="drop"))[0].fate.name == "contamination"
    assert not run(row, step(similar="off"))
    assert not run(row, step(threshold=1.0))


def test_words_and_numbers_are_counted() -> None:
    found = terms("Three apples, 3 Apple and 1,200 cars; half!")
    assert dict(found.stems) == {"apple": 2, "and": 1, "cars": 1}
    assert dict(found.numbers) == {"3": 2, "1200": 1, "0.5": 1}


def written_out(text: str, kind: int, items: list[EvaluationItem]) -> dict[str, float]:
    """The TF-IDF vector of a text, of length one, straight from the formula."""
    counts, n = terms(text)[kind], len(items)
    spread = {term: sum(term in terms(item.prompt)[kind] for item in items) for term in counts}
    raw = {t: (1 + np.log(c)) * (np.log((1 + n) / (1 + spread[t])) + 1) for t, c in counts.items()}
    size = np.sqrt(sum(v * v for v in raw.values()))
    return {term: value / size for term, value in raw.items()}


def test_similarity_is_the_cosine_of_the_written_out_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    items, texts = ITEMS[:15], [problem(i)[1] for i in range(5)]
    found = Paraphrases(items)
    wanted = {(i, kind): written_out(item.prompt, kind, items) for i, item in enumerate(items) for kind in (0, 1)}
    for text in texts:
        scores = found.scores(terms(text))
        for kind, share in ((0, 0.65), (1, 0.35)):
            vector = written_out(text, kind, items)
            scores -= [share * sum(w * wanted[i, kind].get(t, 0) for t, w in vector.items()) for i in range(len(items))]
        assert np.allclose(scores, 0)
    monkeypatch.setattr(overlap, "compiled", lambda: None)
    plain = Paraphrases(items)
    assert all(np.allclose(plain.scores(terms(text)), found.scores(terms(text))) for text in texts)


@given(
    st.lists(
        st.lists(st.lists(st.sampled_from(PIECES), max_size=200).map("".join), max_size=3), min_size=1, max_size=4
    ),
    st.sampled_from([0.05, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_compiled_and_plain_find_the_same(rows: list[list[str]], threshold: float) -> None:
    found = Paraphrases(ITEMS)
    found.thresholds[:] = threshold
    assert found.nearest_of(rows) == [found.nearest(texts) for texts in rows]
    assert [list(one) for one in found.nearest_of(rows)] == [list(found.nearest(texts)) for texts in rows]


def test_items_are_part_of_what_is_remembered() -> None:
    assert step().fingerprint() == step().fingerprint()
    assert step().fingerprint() != step(ITEMS[1:]).fingerprint()
    assert step().fingerprint() != step(similar="off").fingerprint()


def test_without_items_nothing_is_looked_at() -> None:
    assert not run([chat(ITEMS[0].prompt)], step([]))


def test_an_encoder_finds_what_words_do_not(tmp_path: Path) -> None:
    """The encoder is random: what it takes for the same is a text of nearly the same tokens."""
    save_encoder(tmp_path / "encoder")
    item = [EvaluationItem("s", "0", "name the colour of the sky", "blue")]
    options = {"encoder": "encoder", "encoder_threshold": 0.9}
    rows = [chat("0123456789"), chat("name the colour of the skies", "grey")]
    (one,) = run(rows, step(item, tmp_path, similar="review", threshold=1.0, **options))
    assert (one.row, one.fate) == (1, None)
    assert one.note.startswith("by its meaning much like item 0 of s (0.9")
    with pytest.raises(RecipeError, match="there is no folder 'nothing'") as caught:
        run(rows, step(encoder="nothing"))
    assert caught.value.where == "data.curate.contamination.encoder"
