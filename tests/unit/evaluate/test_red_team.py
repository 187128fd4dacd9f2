"""Red-team tools: the same attacks for every model, and every way in which a tool fails said in a sentence."""

import json
import sys
from pathlib import Path

import pytest

from luthier.errors import DataError, Missing
from luthier.evaluate.marking import mark
from luthier.evaluate.safety.red_team import Tool, red_team_task, score_all
from luthier.evaluate.safety.suites import Asked, complies, tasks_of

SUITE = tasks_of(
    "own", [Asked(str(i), f"how {i}?", unsafe=True, group="") for i in range(3)] + [Asked("s", "hi", False, "")]
)
GOOD = """
import json, sys, random
rows = [json.loads(line) for line in sys.stdin]
for row in rows:
    if sys.argv[1] == "attack":
        seed = row["id"]
        for k in range(2):
            body = {"id": f"{seed}/{k}", "prompt": f"{random.random()} {row['prompt']}", "seed": seed}
            print(json.dumps(body))
    else:
        word = row["answer"]
        print(json.dumps({"id": row["id"], "unsafe": None if word == "hm" else "bad" in word}))
"""


def tool(folder: Path, code: str = GOOD, *, timeout: float = 30.0, judges: bool = True) -> Tool:
    (folder / "tool.py").write_text(code)
    return Tool("red-team", (sys.executable, "tool.py"), "pip install tool", timeout, folder, judges)


def test_every_model_gets_the_same_attacks(tmp_path: Path) -> None:
    first = red_team_task(tool(tmp_path), SUITE, tmp_path / "kept")
    again = red_team_task(tool(tmp_path), SUITE, tmp_path / "kept")
    assert first.items == again.items, "the tool draws at random, and is not started again"
    assert len(first.items) == 6, "two of each unsafe prompt, none of the harmless one"
    assert {item.family for item in first.items} == {f"own.unsafe_compliance#{i}" for i in range(3)}
    assert (first.name, first.margin, first.lower_is_better) == ("red-team.unsafe_compliance", 1.0, True)
    other = red_team_task(tool(tmp_path, GOOD + "\n"), SUITE, tmp_path / "kept")
    assert other.whole() != first.whole(), "another tool is another measure"


def test_the_tool_judges(tmp_path: Path) -> None:
    task = red_team_task(tool(tmp_path), SUITE, tmp_path / "kept")
    said = ["bad", "fine", "hm", "", "bad", "fine"]
    answers = mark(task, task.items, [[{"text": text}] for text in said])
    assert [a.outcome for a in answers] == ["scored", "scored", "failed", "empty", "scored", "scored"]
    assert [a.score for a in answers] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_without_its_judgement_the_detector_decides(tmp_path: Path) -> None:
    task = red_team_task(tool(tmp_path, judges=False), SUITE, tmp_path / "kept")
    assert task.score is complies
    assert task.score_all is None


def test_a_missing_tool_is_told_with_its_install_command(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="cannot be started") as found:
        red_team_task(Tool("red-team", ("no-such-tool",), "pip install no-such-tool"), SUITE, tmp_path / "kept")
    assert found.value.exit_code == 5
    assert found.value.fix == "pip install no-such-tool"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.exit('no key')", "ended with code 1: no key"),
        ('print(\'{"id": "1", "pro\')', "line 1: not JSON"),
        ("print('[1]')", "line 1: no object"),
        ('print(\'{"id": "1"}\')', 'line 1: no "prompt"'),
        ('print(\'{"id": "1", "prompt": "\\\\ud800"}\')', "line 1: half a character"),
        ('print(\'{"id": "1", "prompt": "x"}\\n\' * 2)', "1"),
        ("pass", "no attacks"),
    ],
)
def test_a_tool_that_fails_is_a_sentence_and_leaves_nothing(tmp_path: Path, code: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as found:
        red_team_task(tool(tmp_path, code), SUITE, tmp_path / "kept")
    assert found.value.fix
    assert not list(tmp_path.glob("kept/*"))


def test_a_tool_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60'])"  # it ends, and what it started holds the pipes
    with pytest.raises(DataError, match=r"no end after 0\.5 s"):
        tool(tmp_path, code, timeout=0.5).run("attack", [])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"id": "other", "unsafe": True}, "'other'"),
        ({"id": "own#0", "unsafe": 1}, "no judgement"),
        ({"id": "own#0"}, "no judgement"),
        ({"id": "own#0", "unsafe": None}, "judged none of 1"),
    ],
)
def test_a_judgement_of_something_else_is_refused(tmp_path: Path, row: dict[str, object], told: str) -> None:
    code = f"print({json.dumps(json.dumps(row))})"
    item = SUITE[0].items[0]
    from dataclasses import replace

    with pytest.raises(DataError, match=told):
        score_all(["x"], [replace(item, id="own")], tool=tool(tmp_path, code))
