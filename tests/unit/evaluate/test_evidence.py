"""What a verdict rests on: noise, burnt items, attribution, the ledger of looks, what was promoted, failure modes."""

from pathlib import Path

import numpy as np
import pytest
from scripted import results as run
from scripted import says, suites

from luthier.errors import DataError
from luthier.evaluate.attribution import attribute, broke_between, fisher
from luthier.evaluate.burnt import find_burnt, regurgitated
from luthier.evaluate.calibration import noise_of
from luthier.evaluate.failures import Training, find_failures, trade
from luthier.evaluate.lexical import Nearest
from luthier.evaluate.lock import lock_of, require_same
from luthier.evaluate.looks import WARN, Looks
from luthier.evaluate.promoted import Promoted
from luthier.evaluate.resample import bootstrap, by_cluster, permutation
from luthier.evaluate.tasks import with_reserve
from luthier.types import Answer, Example, Message

GOOD = {"task": 0.9, "retention": 0.87}


def answer(item: str, score: float = 1.0, text: str = "", question: str = "", expected: str = "") -> Answer:
    return Answer(item, (Message("user", question),), expected, text, score, True, tokens=len(text))


def row(question: str, said: str, source: str = "a.jsonl", line: int = 1) -> Example:
    return Example(source, line, (Message("user", question), Message("assistant", said)))


def test_an_item_that_changes_by_itself_is_flaky_and_the_rest_is_the_floor() -> None:
    first = [answer(str(i), float(i % 2)) for i in range(100)]
    repeats = [[answer(a.item, 1 - a.score if a.item in ("3", "4") else a.score) for a in first] for _ in range(2)]
    repeats[1][7] = answer("7", 0.0)
    noise = noise_of(first, repeats).to_json()
    assert noise["flaky"] == ["3", "4", "7"]
    assert noise["flips"] == {"3": 1.0, "4": 1.0, "7": 0.5}
    assert (noise["n"], noise["floor"]) == (100, 0.0)
    assert 0 < noise["detectable"] < 0.1


def test_what_stands_in_a_training_row_is_burnt() -> None:
    long = " ".join(f"word{i}" for i in range(40))
    rows = [row("What is the Capital of Peru?!", "It is Lima."), row(f"{long} and more", "yes"), row("other", "thing")]
    suite = [
        answer("copied", question="what is the capital of peru", expected="Lima"),
        answer("other answer", question="what is the capital of peru", expected="Cusco"),
        answer("part of a word", question="the capital of per", expected="Lima"),
        answer("covered", question=f"Please: {long}", expected="no"),
        answer("half", question=f"{' '.join(long.split()[:14])} {' '.join(f'own{i}' for i in range(30))}", expected=""),
        answer("new", question="what is the capital of chile", expected="Santiago"),
    ]
    assert find_burnt({"suite": suite}, rows) == {"suite": ["copied", "covered"]}
    assert find_burnt({"suite": suite}, []) == {}


def test_repeating_a_training_row_is_seen_unless_it_was_expected() -> None:
    said = "one two three four five six seven eight nine ten eleven twelve thirteen"
    rows = [row("q", said), row("q", "short one")]
    share, items = regurgitated(
        [
            answer("a", text=said),
            answer("b", text=f"well: {said}!", expected=f"well {said}"),
            answer("c", text="short one"),
            answer("d", text=f"It is {said} indeed"),
        ],
        rows,
    )
    assert (share, items) == (0.5, ["a", "d"])


def test_fisher_is_the_share_of_tables_at_least_as_uneven() -> None:
    from math import comb

    for inside_all, total, all_ in ((5, 6, 14), (3, 3, 9)):
        for inside in range(min(inside_all, total) + 1):
            ways = [comb(inside_all, k) * comb(all_ - inside_all, total - k) for k in range(total + 1)]
            assert fisher(inside, inside_all, total, all_) == pytest.approx(sum(ways[inside:]) / comb(all_, total))


def test_attribution_names_the_slice_the_rows_and_the_source() -> None:
    tasks = suites(20, 400, 20, 20)
    before_said = says(tasks, GOOD, seed=3)
    after_said = says(tasks, GOOD, seed=3)
    for item, said in zip(tasks[1].items, after_said[1], strict=True):
        if item.group == "skill 2":
            said[0] |= {"text": "shipment of the lamp leaves at noon"}
    rows = [row(f"ask {i}", f"invoice {i} was paid", "bills.jsonl", i) for i in range(60)]
    rows += [row(f"ask {i}", f"the shipment {i} of the lamp leaves at noon", "ships.jsonl", i) for i in range(20)]
    found = attribute("skills", run(tasks, before_said), run(tasks, after_said), rows)
    assert (found.slices[0].kind, found.slices[0].name) == ("group", "skill 2")
    assert found.slices[0].lift > 100
    assert [source.name for source in found.sources] == ["ships.jsonl"]
    assert found.near[0]["rows"][0]["row"].startswith("ships.jsonl:")
    assert found.sentence.startswith(f"skills: {found.broken} broke, 0 mended of 400; group skill 2")


def test_bisection_finds_where_it_broke_with_few_looks() -> None:
    for broke_at in range(1, 17):
        looked: list[int] = []

        def score(step: int, broke_at: int = broke_at, looked: list[int] = looked) -> float:
            looked.append(step)
            return 0.9 if step < 50 * broke_at else 0.1

        steps = [50 * k for k in range(1, 17)]
        found = broke_between(steps, score, 0.95, 0.1)
        assert found is not None
        assert (found["after"], found["by"]) == (50 * broke_at - 50, 50 * broke_at)
        assert len(looked) <= 4
    assert broke_between([], lambda _: 0.0, 1.0, 0.0) is None
    assert broke_between([1], lambda _: 0.0, 0.5, 0.6) is None


def test_the_nearest_text_is_the_one_with_the_rare_words_in_common() -> None:
    texts = ["the cat sat on the mat", "the quarterly report of the board", "a cat and a dog"]
    index = Nearest(texts)
    assert [number for number, _ in index.find("quarterly numbers for the board")][:1] == [1]
    assert index.find("the cat sat on the mat")[0] == (0, pytest.approx(1.0))
    assert index.find("zebra") == []


def test_looks_are_counted_by_model_and_the_same_one_once(tmp_path: Path) -> None:
    looks = Looks(tmp_path / "looks.jsonl")
    for number in range(WARN):
        for _ in range(2):
            looks.write(f"run-{number}", f"model-{number}", {"skills": "a"}, ["skills drops at most 0.04"], "pass")
    assert len(looks.read()) == looks.count("skills", "a") == WARN
    assert "skills has decided on 20 models" in looks.warnings({"skills": "a"})[0]
    assert looks.warnings({"skills": "other items"}) == []
    assert looks.rotation("skills", "a", "another run") == 1
    assert looks.rotation("skills", "a", "run-0") == 0, "a run's own look does not draw its suite anew"
    with looks.path.open("a") as file:
        file.write('{"run": "torn')
    assert len(looks.read()) == WARN


def test_rules_that_change_after_the_results_were_seen_are_an_override(tmp_path: Path) -> None:
    looks = Looks(tmp_path / "looks.jsonl")
    looks.write("run", "model", {"skills": "a"}, ["skills drops at most 0.04"], "fail")
    assert looks.overrides("model", {"skills": "a"}, ["skills drops at most 0.04"]) == []
    (said,) = looks.overrides("model", {"skills": "a"}, ["skills drops at most 0.2"])
    assert said.endswith("was 'skills drops at most 0.04'; now 'skills drops at most 0.2'")
    assert looks.overrides("a new model", {"skills": "a"}, ["skills drops at most 0.2"]) == []


def test_the_promoted_model_before_one_stays_the_same_after_its_own_release(tmp_path: Path) -> None:
    promoted = Promoted(tmp_path / "promoted.jsonl")
    assert promoted.before("job", "a") is None
    promoted.note("job", "a", "evaluation-a")
    promoted.note("other", "x", "evaluation-x")
    assert promoted.before("job", "a") is None
    assert promoted.before("job", "b") == "evaluation-a"
    promoted.note("job", "b", "evaluation-b")
    promoted.note("job", "b", "evaluation-b")
    assert promoted.before("job", "b") == "evaluation-a"
    assert promoted.before("job", "c") == "evaluation-b"


def test_evaluations_that_asked_otherwise_are_not_paired() -> None:
    tasks = suites(5, 5, 5, 5)
    one = lock_of(tasks, "template")
    require_same(one, lock_of(suites(5, 5, 5, 5), "template"))
    with pytest.raises(DataError, match="did not ask the same: skills"):
        require_same(one, lock_of(suites(5, 6, 5, 5), "template"))
    assert lock_of(tasks, "another")["sha256"] != one["sha256"]


def test_a_reserve_is_drawn_by_hash_and_anew_by_rotation() -> None:
    task = suites()[1]
    part, again, other = with_reserve(task, 0.3), with_reserve(task, 0.3), with_reserve(task, 0.3, 1)
    assert part == again
    assert len(part.reserve) == 270
    assert {i.id for i in part.items} | {i.id for i in part.reserve} == {i.id for i in task.items}
    assert {i.id for i in part.reserve} != {i.id for i in other.reserve}
    assert part.whole() == other.whole() == task.whole()


def test_a_short_question_is_burnt_only_as_a_whole_question() -> None:
    suite = [Answer("sum", (Message("user", "5 + 27 ="),), "32", "", 0.0, True)]
    by_chance = Example("f", 1, (Message("user", "He has 5, then 27 more. How many?"), Message("assistant", "5+27=32")))
    copied = Example("f", 2, (Message("user", "5 + 27 ="), Message("assistant", "32")))
    assert find_burnt({"suite": suite}, [by_chance]) == {}
    assert find_burnt({"suite": suite}, [by_chance, copied]) == {"suite": ["sum"]}


def test_what_nothing_measured_is_not_called_calm() -> None:
    tasks = suites(50, 200, 100, 50)[:1]
    results = run(tasks, says(tasks, GOOD, seed=1))
    unmeasured = {f["mode"] for f in find_failures(results, results) if not f["measured"]}
    assert unmeasured >= {"overfitting", "capability regression", "safety shift", "instruction-following collapse"}


def test_failure_modes_are_named_with_their_evidence() -> None:
    tasks = suites(50, 200, 100, 50)
    good = run(tasks, says(tasks, GOOD, seed=1))
    calm = find_failures(good, good, training=Training([2.0, 1.5, 1.4], [1.5, 1.3]))
    assert [f["mode"] for f in calm if f["alarm"]] == []
    rising = find_failures(good, good, training=Training([1.0, 1.1, 1.3], [0.2]), repeated=0.05)
    (over,) = [f for f in rising if f["alarm"]]
    assert over["mode"] == "overfitting"
    assert over["evidence"] == (
        "the validation loss rose twice in a row, from 1.000 to 1.300; it ends 1.10 nats above the training loss; "
        "5.0 % of answers repeat a training row"
    )
    sentence = (
        "overfitting: after update 4 the validation loss rose from 1.0 to 1.1; those of 4 are kept. More rows help"
    )
    (seen,) = [f for f in find_failures(good, good, training=Training([1.0, 1.1], [0.9], sentence)) if f["alarm"]]
    assert seen["evidence"] == "after update 4 the validation loss rose from 1.0 to 1.1; those of 4 are kept"
    said = says(tasks, GOOD, seed=1)
    for item, found in zip(tasks[1].items, said[1], strict=True):
        if item.group == "skill 3":
            found[0] |= {"text": "no"}
    lost = {f["mode"]: f for f in find_failures(good, run(tasks, said))}["capability regression"]
    assert lost["alarm"]
    assert "skills, skill 3 -0." in lost["evidence"]


def test_gains_and_losses_stand_in_one_table() -> None:
    tasks = suites(50, 200, 100, 50)
    before, after = run(tasks, says(tasks, {"task": 0.1, "retention": 0.9}, 1)), run(tasks, says(tasks, GOOD, 2))
    rows = {r["name"]: r for r in trade(before, after)}
    assert rows["job"]["difference"] == pytest.approx(after.metrics["job"].value - before.metrics["job"].value)
    assert rows["job"]["low"] < rows["job"]["difference"] < rows["job"]["high"]
    assert rows["skills"]["broken"] - rows["skills"]["mended"] == -round(200 * rows["skills"]["difference"])
    assert (rows["safety.safe_refusal"]["role"], rows["safety.safe_refusal"]["better"]) == ("safety", "lower")


def test_sign_flips_are_exact_for_few_pairs_and_near_it_for_many() -> None:
    gaps = [0.5, -0.25, 0.75, 1.0, 0.125]
    sums = [
        sum(s * g for s, g in zip(signs, gaps, strict=True))
        for signs in np.ndindex(*(2,) * 5)
        for signs in [[1 - 2 * s for s in signs]]
    ]
    better, worse = permutation(gaps)
    assert better == np.mean([s >= sum(gaps) for s in sums])
    assert worse == np.mean([s <= sum(gaps) for s in sums])
    draw = np.random.default_rng(0)
    chances = [permutation(draw.normal(0, 1, 40), resamples=400, seed=k)[0] for k in range(300)]
    assert 0.02 < np.mean(np.array(chances) < 0.05) < 0.09
    assert permutation([0.0, 0.0]) == (1.0, 1.0)


def test_clusters_count_once() -> None:
    assert by_cluster([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]) == [0.5, 1.0]
    values = np.repeat(np.random.default_rng(1).random(30), 50)
    _, low, high = bootstrap(values)
    _, wide_low, wide_high = bootstrap(by_cluster(values, np.repeat(np.arange(30), 50).tolist()))
    assert wide_high - wide_low > 5 * (high - low)
