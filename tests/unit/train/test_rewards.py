"""What an answer is worth: every part, what fails is counted and never worth nothing, ensembles, reward models."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from reward_functions import vowels
from rollouts import POLICIES, job, ready, run
from tiny import base, seen, tokenizer

from luthier import events
from luthier.errors import RecipeError, TrainingStopped
from luthier.evaluate.items import Item
from luthier.models.load import load_model
from luthier.models.scoring import Apart, Classifier
from luthier.recipe import RewardPart
from luthier.train.rewards import (
    Ensemble,
    Failure,
    Part,
    Place,
    Rewards,
    Written,
    judged_by_rows,
    make_rewards,
    require,
)
from luthier.train.start import Scale, normalisation
from luthier.types import Message

FUNCTIONS = str(Path(__file__).parents[2] / "reward_functions.py")


def section(**given: Any) -> Any:
    return TypeAdapter(RewardPart).validate_python(given)


def written(text: str, expected: str = "", asked: str = "1?", tokens: int = 4) -> Written:
    return Written(Item(asked, (Message("user", asked),), expected), text, tokens, ended=True)


def made(*sections: dict[str, Any], room: int = 16) -> Rewards:
    return make_rewards([section(**given) for given in sections], Place(Path(), room, unsafe_code=True))


def python(function: str, **more: Any) -> dict[str, Any]:
    return {"kind": "python", "path": FUNCTIONS, "function": function, **more}


def test_parts_are_weighed_summed_and_named() -> None:
    parts = [
        {"kind": "scorer", "scorer": "exact_match", "weight": 2.0},
        {"kind": "scorer", "scorer": "regex", "settings": {"pattern": "^[A-Z]"}, "name": "capital"},
        {"kind": "length", "goal": 8, "weight": -0.5},
        {"kind": "overlong", "room": 4},
        python("vowels"),
        python("vowels"),
    ]
    worth = made(*parts)([written("Aha", "Aha", tokens=4), written("nope", "Aha", tokens=14)])
    assert list(worth.parts) == ["exact_match", "capital", "length", "overlong", "vowels", "vowels-2"]
    assert worth.parts["length"] == [0.5, 0.25]
    assert worth.parts["overlong"] == [0, -0.5]
    share = vowels("Aha", Item("x"))
    assert worth.total == pytest.approx([2 + 1 - 0.25 + 2 * share, -0.125 - 0.5 + 2 * 0.5])
    assert not worth.failed


def test_schemas_and_programs_are_rewards() -> None:
    schema = {"type": "object", "required": ["a"]}
    rewards = made({"kind": "scorer", "scorer": "json_schema", "settings": {"schema": schema}})
    assert rewards([written('{"a": 1}'), written("{}"), written("no")]).total == [1, 0, 0]
    code = made({"kind": "code", "seconds": 5})
    right, wrong = "```python\ndef f(x):\n    return x + 1\n```", "def f(x): return x"
    assert code([written(right, "assert f(1) == 2"), written(wrong, "assert f(1) == 2")]).total == [1, 0]


@pytest.mark.parametrize(
    ("function", "reason"),
    [("raises", "KeyError: 'price'"), ("hangs", "no answer within 0.3 s")],
)
def test_a_reward_that_fails_is_counted_and_named_and_worth_nothing_at_all(function: str, reason: str) -> None:
    worth = made(python(function, seconds=0.3))([written("a", asked=f"{i}?") for i in range(6)])
    assert worth.total == [1, 1, 1, None, 1, 1]
    assert worth.failed == {f"{function}: {reason}": 1}
    require(worth)
    worth.total = [None, None, *worth.total[2:]]
    with pytest.raises(TrainingStopped, match=f"3 of 6 answers have no reward; 1 times {function}"):
        require(worth)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("nothing", "it said nan"),
        ("silent", "it said None, which is no number"),
        ("text", "it said '0.5', which is no number"),
        ("leaves", "SystemExit: 3"),
    ],
)
def test_what_is_no_number_is_no_reward(function: str, reason: str) -> None:
    worth = made(python(function))([written("a")])
    assert worth.total == [None]
    assert worth.failed == {f"{function}: {reason}": 1}


def test_numbers_of_other_packages_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "kinds.py").write_text(
        "import numpy, torch\nKINDS = [True, 1, numpy.float32(1), numpy.array(1.0), torch.tensor(1.0)]\n"
        "def reward(answer, item):\n    return KINDS[len(answer)]\n"
    )
    rewards = make_rewards([section(kind="python", path="kinds.py")], Place(tmp_path, 8))
    assert rewards([written("a" * k) for k in range(5)]).total == [1] * 5


def test_a_function_that_never_ends_is_not_asked_for_ever() -> None:
    worth = made(python("never_ends", seconds=0.1))([written("a")] * 40)
    assert worth.total == [None] * 40
    assert worth.failed == {
        "never_ends: no answer within 0.1 s": 4,
        "never_ends: not asked: 4 answers in a row had no answer within 0.1 s": 36,
    }
    with pytest.raises(TrainingStopped, match="40 of 40 answers have no reward; 36 times never_ends: not asked"):
        require(worth)


def test_a_function_that_raises_now_and_then_ends_the_run_with_its_own_words() -> None:
    worth = made(python("now_and_then"))([written("a", asked=f"{i}?") for i in range(9)])
    assert worth.total == [None, 1, 1] * 3
    with pytest.raises(
        TrainingStopped, match=r"3 of 9 answers have no reward; 1 times now_and_then: ValueError: no 0\?"
    ):
        require(worth)


def test_an_answer_without_a_reward_is_left_out_of_the_update(tmp_path: Path) -> None:
    log = run(
        job(tmp_path, POLICIES["rloo"] | {"rewards": [python("raises")], "prompts": 12}, training={"max_steps": 1})
    )
    rollout = seen(log, events.RolledOut)[0]
    assert rollout.answers == 44  # 12 prompts of 4 answers, one prompt of which has no reward
    assert rollout.metrics["failed"] == 4
    assert "4 rewards failed, 4 times raises: KeyError: 'price'" in [w.message for w in seen(log, events.Warned)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (python("absent"), "has no function 'absent'"),
        (python("number"), "has no function 'number'"),
        (python("alone"), "alone cannot be called with an answer and an item: too many positional arguments"),
        (python("later"), "later is asynchronous"),
        ({"kind": "python", "path": "absent.py"}, "there is no file 'absent.py'"),
        ({"kind": "scorer", "scorer": "exakt"}, "there is no scorer 'exakt'"),
        ({"kind": "scorer", "scorer": "regex", "settings": {"form": "x"}}, "'regex' has no setting 'form'"),
    ],
)
def test_what_is_not_there_is_told_before_training(given: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        made(given)


def test_a_file_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import absent_package\n")
    with pytest.raises(RecipeError, match=r"bad.py cannot be run: ModuleNotFoundError"):
        make_rewards([section(kind="python", path="bad.py")], Place(tmp_path, 8))
    (tmp_path / "bad.py").write_text("import sys\nsys.exit(2)\n")
    with pytest.raises(RecipeError, match=r"bad.py cannot be run: SystemExit: 2"):
        make_rewards([section(kind="python", path="bad.py")], Place(tmp_path, 8))
    (tmp_path / "bad.py").write_text("x = 1\ndef reward(answer, item)\n    return 1\n")
    with pytest.raises(RecipeError, match=r"bad.py is not Python: expected ':'") as caught:
        make_rewards([section(kind="python", path="bad.py")], Place(tmp_path, 8))
    assert caught.value.where == f"{tmp_path / 'bad.py'}:2"
    (tmp_path / "bad.txt").write_text("words\n")
    with pytest.raises(RecipeError, match=r"bad.txt is no Python file"):
        make_rewards([section(kind="python", path="bad.txt")], Place(tmp_path, 8))


def fixed(*scores: float) -> Any:
    return lambda talks: [scores[len(talk) % len(scores)] for talk in talks]


@pytest.mark.parametrize(("combine", "expected"), [("mean", 1.0), ("worst", -1.0), ("mean_minus_spread", -1.0)])
def test_ensembles(combine: str, expected: float) -> None:
    ensemble = Ensemble([fixed(-1.0), fixed(1.0), fixed(3.0)], [Scale(), Scale(), Scale()], combine)
    assert ensemble([written("a")]) == [pytest.approx(expected)]
    assert ensemble.spread == [pytest.approx(2.0)]


def test_what_members_disagree_on_is_known_beside_a_single_model() -> None:
    several = Ensemble([fixed(-1.0), fixed(1.0)], [Scale(), Scale()], "mean")
    single = Ensemble([fixed(5.0)], [Scale()], "mean")
    for parts in ((several, single), (single, several)):
        worth = Rewards([Part(str(i), 1.0, part) for i, part in enumerate(parts)])([written("a")])
        assert worth.spread == [pytest.approx(2**0.5)]


def test_a_member_that_cannot_read_an_answer_fails_it_alone() -> None:
    from luthier.errors import TemplateError

    def picky(talks: Any) -> list[float]:
        if any(talk[-1].content == "long" for talk in talks):
            raise TemplateError("too long")
        return [1.0] * len(talks)

    found = Ensemble([picky], [Scale()], "mean")([written("short"), written("long")])
    assert found == [1.0, Failure("too long")]


def test_scores_are_brought_to_mean_zero_and_spread_one() -> None:
    numbers = normalisation([1.0, 3.0, 5.0])
    scaled = [Scale(numbers["mean"], numbers["spread"])(x) for x in (1.0, 3.0, 5.0)]
    assert sum(scaled) == pytest.approx(0)
    assert sum(x * x for x in scaled) / 3 == pytest.approx(1)
    assert normalisation([2.0, 2.0])["spread"] == 1


def talks(count: int = 5) -> list[list[Message]]:
    return [[Message("user", f"{i}?" * (i + 1)), Message("assistant", "red " * (i + 1))] for i in range(count)]


def test_a_score_depends_on_its_conversation_alone() -> None:
    model = load_model(base(), "float32", scores=True)
    scorer = Apart(model, tokenizer())
    together = scorer(talks())
    assert together == pytest.approx([scorer([talk])[0] for talk in talks()], abs=1e-5)
    assert scorer(talks()[::-1]) == pytest.approx(together[::-1], abs=1e-5)
    model.config.pad_token_id = model.config.eos_token_id  # a reader of padding would be led astray
    assert scorer(talks()) == pytest.approx(together, abs=1e-6)


def test_any_classifier_is_asked_with_its_own_tokenizer(tmp_path: Path) -> None:
    from tiny import save_classifier
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    save_classifier(tmp_path, ["bad", "fine", "good"])
    own = AutoTokenizer.from_pretrained(tmp_path)
    own.chat_template = None
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    short = [[Message("user", f"{i}"), Message("assistant", "a" * (3 * i + 1))] for i in range(4)]
    found = Classifier(model, own, 2)(short)
    for talk, score in zip(short, found, strict=True):
        with torch.no_grad():
            logits = model(**own(talk[0].content, talk[1].content, return_tensors="pt")).logits[0].double()
        chance = torch.softmax(logits, -1)[2].item()
        assert score == pytest.approx(math.log(chance / (1 - chance)), abs=1e-4)
    own.pad_token = None  # as many classifiers on a causal base have it: nothing to pad with, so each text goes alone
    assert Classifier(model, own, 2)(short) == pytest.approx(found, abs=1e-5)


def test_rewards_that_compare_with_the_rows_answers_judge_themselves(tmp_path: Path) -> None:
    exact = section(kind="scorer", scorer="exact_match")
    assert judged_by_rows([exact])
    for other in (section(kind="length", goal=3), section(kind="scorer", scorer="regex", settings={"pattern": "a"})):
        assert not judged_by_rows([exact, other])
    _, _, source = ready(job(tmp_path / "a", POLICIES["grpo"] | {"rewards": [{"kind": "scorer", "scorer": "f1"}]}))
    assert source.judges.same
    _, _, source = ready(job(tmp_path / "b", POLICIES["grpo"]))
    assert not source.judges.same
    assert [part.name for part in source.judges.held_out.parts] == ["f1"]
