"""Near duplicates against brute force: the sets, the signatures, the pairs, what stays and what is kept together."""

import itertools
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import clusters
from luthier.data.clusters import Near, Plain, Signer, near_texts
from luthier.data.minhash import MARGIN, Banding, estimate, minima, signature
from luthier.data.near_duplicates import NearDuplicates
from luthier.data.shingles import fold, jaccard, shingle_set, shingles
from luthier.data.step import Held, Row, Surroundings
from luthier.recipe.curate import NearDuplicates as Settings
from luthier.types import Example, Message

R = random.Random(5)
VOCABULARY = ["".join(R.choices("abcdefghijklmnop", k=R.randint(2, 8))) for _ in range(3000)]


def text(words: int, r: random.Random) -> str:
    return " ".join(r.choice(VOCABULARY) for _ in range(words))


def families(seed: int, count: int = 60) -> list[str]:
    """Texts of 3 to 120 words, some with one to three changed copies."""
    r, found = random.Random(seed), []
    for _ in range(count):
        words = text(r.choice([3, 8, 15, 40, 120]), r).split()
        found.append(" ".join(words))
        for _ in range(r.randint(0, 3)):
            copy = list(words)
            for _ in range(r.randint(0, max(1, len(words) // 12))):
                copy[r.randrange(len(copy))] = r.choice(VOCABULARY)
            found.append(" ".join(copy))
    return found


def by_hand(given: str) -> set[str]:
    """The set of shingles as one would write it down."""
    words = re.findall(r"\w+|[%*+/<=>]", given.lower())
    if len(words) >= 20:
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}
    whole = f" {' '.join(words)} "
    return {whole[i : i + 5] for i in range(max(len(whole) - 4, 1))} if words else set()


def exact(a: str, b: str) -> float:
    x, y = by_hand(a), by_hand(b)
    return len(x & y) / max(len(x | y), 1)


WORDS = st.lists(st.text("ab1é ,.+日", max_size=6), max_size=60).map(" ".join)


@given(WORDS, WORDS)
@settings(max_examples=150, deadline=None)
def test_the_hashed_sets_have_the_jaccard_index_of_the_written_ones(a: str, b: str) -> None:
    a, b = a.replace("日", "z"), b.replace("日", "z")
    assert len(shingle_set(a)) == len(by_hand(a))
    assert jaccard(shingle_set(a), shingle_set(b)) == pytest.approx(exact(a, b))


@given(st.text(max_size=300) | WORDS)
@settings(max_examples=200, deadline=None)
def test_compiled_and_plain_agree_to_the_bit(given: str) -> None:
    for banding in (Banding(32, 8), Banding(64, 4)):
        signer = Signer(banding)
        assert clusters.compiled() is not None, "install the extra `data`"
        assert signer.signatures(["", given, "a b"])[1] == signature(shingles(given), banding)
        assert np.array_equal(signer.shingle_set(given), shingle_set(given))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The CAT, sat!", "the cat sat"),
        ("caf\u00e9 au lait", "cafe\u0301 au lait"),
        ("zero\u200bwidth", "zerowidth"),
        ("\uff26\uff55\uff4c\uff4c", "full"),
        ("one\r\n\r\ntwo", "one two"),
    ],
)
def test_form_does_not_count(a: str, b: str) -> None:
    assert np.array_equal(shingle_set(a), shingle_set(b))


def test_arithmetic_and_scripts_without_blanks_do() -> None:
    assert not np.array_equal(shingle_set("2 + 3"), shingle_set("2 * 3"))
    assert len(fold("\u65e5\u672c\u8a9e").split()) == 3
    assert not len(shingle_set("  ...  "))


def test_minima_agree_as_often_as_the_jaccard_index_says() -> None:
    """Over 300 pairs of known index the share of equal minima and the estimate from bits are unbiased."""
    rng = np.random.default_rng(1)
    for index in (0.2, 0.5, 0.8):
        common = round(400 * index)
        shares, estimates = [], []
        for _ in range(300):
            drawn = rng.integers(0, 2**63, 400, dtype=np.uint64)
            half = common + (400 - common) // 2
            a, b = drawn[:half], np.concatenate([drawn[:common], drawn[half:]])
            shares.append(np.mean(minima(a) == minima(b)))
            records = [np.frombuffer(signature(one, Banding(32, 8)), Banding(32, 8).record)[0] for one in (a, b)]
            estimates.append(estimate(records[0]["bits"], records[1]["bits"]))
        truth = common / (len(a) + len(b) - common)
        assert np.mean(shares) == pytest.approx(truth, abs=4 * 0.03 / 300**0.5)
        assert np.mean(estimates) == pytest.approx(truth, abs=5 * 0.03 / 300**0.5)
        assert truth - min(estimates) < MARGIN


@pytest.mark.parametrize("threshold", [0.8, 0.5, 0.3])
def test_the_pairs_are_those_of_brute_force(threshold: float) -> None:
    texts = families(1)
    found = {(i, j): score for i, j, score in near_texts(texts, threshold).pairs()}
    truth = {(i, j): exact(texts[i], texts[j]) for i, j in itertools.combinations(range(len(texts)), 2)}
    truth = {pair: index for pair, index in truth.items() if index >= threshold}
    assert len(truth) > 50
    assert found.keys() <= truth.keys()
    assert len(found) >= 0.99 * len(truth)
    assert all(found[pair] == pytest.approx(truth[pair]) for pair in found)


@pytest.mark.parametrize("seed", range(3))
def test_stars_and_components_are_what_they_say(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = families(seed, 30)
    rank = np.array([-len(one) for one in texts])
    near = near_texts(texts, 0.75)
    centre, alike, components = near.settle(rank)
    pairs = {frozenset(pair[:2]) for pair in near.pairs()}
    for i, c in enumerate(centre.tolist()):
        assert centre[c] == c
        if c != i:
            assert (rank[c], c) < (rank[i], i)
            assert alike[i] == pytest.approx(exact(texts[i], texts[c]))
            assert alike[i] >= 0.75
    stay = [i for i, c in enumerate(centre.tolist()) if c == i]
    assert not any(frozenset(two) in pairs for two in itertools.combinations(stay, 2))
    for pair in pairs:
        i, j = pair
        assert components[i] == components[j]
    monkeypatch.setattr(clusters, "compiled", lambda: None)
    plain = near_texts(texts, 0.75)
    assert plain.functions is Plain
    assert all(np.array_equal(a, b) for a, b in zip((centre, alike, components), plain.settle(rank), strict=True))
    monkeypatch.setattr(clusters, "FIRST_ROWS", 3)
    monkeypatch.setattr(clusters, "MOST_SHINGLES", 100)
    assert all(np.array_equal(a, b) for a, b in zip((centre, alike, components), near.settle(rank), strict=True))


def chain() -> list[str]:
    """Each text is close to the one before and after it; the last has nothing in common with the first."""
    words = text(300, random.Random(9)).split()
    return [" ".join(words[k : k + 100]) for k in range(0, 200, 10)]


def test_a_chain_is_no_cluster_but_it_is_one_component() -> None:
    texts = chain()
    near = near_texts(texts, 0.75)
    centre, alike, components = near.settle(np.arange(len(texts)))
    assert min(alike) >= 0.75
    assert len(set(centre.tolist())) > 5
    assert not components.any()


def run(rows: list[Row], **options: Any) -> tuple[list[Any], NearDuplicates]:
    step = NearDuplicates(Settings(**options), Surroundings())
    return list(step.resolve(Held(step, rows))), step


def document(content: str, line: int = 1) -> Row:
    return Row(Example("f", line, text=content))


def chat(question: str, answer: str, rating: float | None = None) -> Row:
    return Row(Example("f", 1, (Message("user", question), Message("assistant", answer)), rating=rating))


LONG = text(60, random.Random(3))


def test_of_documents_the_longest_stays_and_the_reason_says_how_close_the_other_is() -> None:
    (found,), step = run([document(LONG), document("other words altogether"), document(f"{LONG} and more")])
    assert (found.row, found.kept) == (0, 2)
    assert found.fate.name == "near_duplicate"
    assert found.fate.score == pytest.approx(56 / 58)
    assert found.fate.reason == "97% of the shingles are the same"
    assert step.report() == {"compared": 2, "dropped": 1, "kept_together": 0}


def test_conversations_stay_and_are_kept_together_unless_asked_otherwise() -> None:
    rows = [chat("q", LONG), chat("other", "words"), chat("q", f"{LONG} again", rating=-1.0), chat("q", f"{LONG}s")]
    found, _ = run(rows)
    assert [(one.row, one.together, one.fate) for one in found] == [(2, 0, None), (3, 0, None)]
    dropped, _ = run(rows, conversations="drop")
    assert [(one.row, one.kept) for one in dropped] == [(0, 3), (2, 3)]


def test_a_row_without_letters_is_close_to_nothing() -> None:
    found, step = run([document(""), document(""), document("...")])
    assert not found
    assert step.signature(document("")) == b""
    assert not run([])[0]


def test_the_chance_to_be_found_is_the_formula() -> None:
    assert Banding.at(0.75) == Banding(32, 8)
    assert Banding(32, 8).chance(0.8) == pytest.approx(0.9972, abs=1e-4)
    assert Banding.at(0.5).chance(0.5) > 0.98
    found = Near(np.zeros(0, Banding(32, 8).record), lambda _: [], 0.75)
    assert not list(found.pairs())
