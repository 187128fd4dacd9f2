"""A recipe that learns from rewards, from rows to report; what its rewards rest on is part of what makes it stale."""

from pathlib import Path
from typing import Any

import pytest
import scenes

from luthier import events
from luthier.errors import DataError, RecipeError
from luthier.pipeline import run_recipe
from luthier.pipeline.rewards import reward_inputs
from luthier.recipe import build_recipe
from luthier.runs import run_folder

OBJECTIVE = {
    "kind": "grpo",
    "rewards": [{"kind": "python", "path": "mine.py"}],
    "held_out": [{"kind": "python", "path": "mine.py", "function": "other"}],
    "prompts": 8,
    "answers": 4,
    "max_new_tokens": 4,
    "held_out_prompts": 8,
    "stop_when_gamed": False,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    scenes.make_base(folder / "base")
    scenes.write_rows(folder / "rows.jsonl", scenes.conversations(40))
    (folder / "mine.py").write_text(
        "def reward(answer, item):\n    return float('e' in answer)\n\ndef other(answer, item):\n    return 0.5\n"
    )
    return folder


def body(place: Path, **objective: Any) -> Any:
    found = scenes.recipe(place / "base", place / "rows.jsonl", objective=OBJECTIVE | objective)
    found["training"] = {"epochs": 1, "learning_rate": 1e-3, "probe": False, "validate_every": 2}
    found["gate"] = {"rules": []}
    return found


def test_from_rows_to_a_report(place: Path) -> None:
    path = scenes.write_recipe(place / "recipe.yaml", body(place))
    done = run_recipe(path, root=place / "runs", until="verdict")
    report = (done.folder / "report.html").read_text(encoding="utf-8")
    assert 'id="rewards"' in report
    assert "best held-out score" in report
    assert "best: these weights are kept" in report
    rollouts = done.artifact("model").json("rollouts.json")
    assert [look["step"] for look in rollouts["curve"]] == [0, 2, 4]
    assert len(rollouts["examples"]) == 6
    logged = [event for _, event in events.read(done.events) if isinstance(event, events.RolledOut)]
    assert len(logged) == 4
    again = run_recipe(path, root=place / "runs", until="verdict")
    finished = [event for _, event in events.read(again.events) if isinstance(event, events.StageFinished)]
    assert all(event.reused for event in finished[-6:])
    source = (place / "mine.py").read_text()
    (place / "mine.py").write_text(source + "\n# another reward\n")
    changed = run_recipe(path, root=place / "other", until="model")
    (place / "mine.py").write_text(source)
    assert changed.artifacts["model"].name != done.artifacts["model"].name
    assert changed.artifacts["dataset"].name == done.artifacts["dataset"].name
    assert run_folder(done.folder) == run_folder(place / "runs" / "tiny") == done.folder  # the hash may be left out


@pytest.mark.parametrize(
    ("reward", "error", "told"),
    [
        ({"kind": "python", "path": "absent.py"}, RecipeError, "there is no file 'absent.py'"),
        ({"kind": "scorer", "scorer": "exactly"}, RecipeError, "there is no scorer 'exactly'"),
        ({"kind": "model", "model": "nowhere"}, RecipeError, "there is no folder 'nowhere'"),
    ],
)
def test_a_reward_that_is_not_there_is_told_first(
    reward: dict[str, Any], error: type[Exception], told: str, place: Path
) -> None:
    path = scenes.write_recipe(place / "bad.yaml", body(place, rewards=[reward]))
    with pytest.raises(error, match=told):
        run_recipe(path, root=place / "bad")


def test_a_run_that_gives_no_score_is_no_reward_model(place: Path) -> None:
    started = run_recipe(
        scenes.recipe(place / "base", place / "rows.jsonl", gate={"rules": []}), root=place / "sft", until="plan"
    )
    given = build_recipe(body(place, rewards=[{"kind": "model", "model": str(started.folder)}]))
    with pytest.raises(RecipeError, match="the run learned 'sft', so it gives no score"):
        reward_inputs(given, place)
    with pytest.raises(DataError, match="the run has released no whole model"):
        run_recipe(body(place) | {"model": {"base": str(started.folder)}}, root=place / "three", until="plan")


def prompts(place: Path, **objective: Any) -> Any:
    """A recipe whose rows are prompts alone."""
    asked = [{"prompt": row["messages"][0]["content"]} for row in scenes.conversations(40)]
    rows = scenes.write_rows(place / "prompts.jsonl", asked)
    found = body(place, **objective)
    found["data"] = found["data"] | {"sources": [{"path": str(rows)}]}
    return found


def test_prompts_without_answers_are_enough_for_a_function(place: Path) -> None:
    given = prompts(place)
    del given["gate"]
    given["evaluate"] = {"retention": []}
    done = run_recipe(scenes.write_recipe(place / "prompts.yaml", given), root=place / "runs", until="verdict")
    facts = done.artifact("dataset").json("facts.json")
    assert facts["fates"] == {"kept": 40}
    assert facts["shapes"] == {"prompt": 40}
    assert [look["step"] for look in done.artifact("model").json("rollouts.json")["curve"]] == [0, 2, 4]
    assert done.artifact("verdict").json("verdict.json")["rules"] == []  # nothing to compare with, and none made up


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"held_out": []}, "held-out prompts have no answer that a judge could compare with"),
        ({"max_new_tokens": None}, "the prompts have no answers that would tell how long an answer may be"),
        ({"rewards": [{"kind": "scorer", "scorer": "exact_match"}]}, "no_answer 40, for example"),
    ],
)
def test_what_needs_answers_says_so_of_prompts(changes: Any, told: str, place: Path) -> None:
    path = scenes.write_recipe(place / "prompts-bad.yaml", prompts(place, **changes))
    with pytest.raises((DataError, RecipeError), match=told):
        run_recipe(path, root=place / "runs", until="model")
