"""Programs as answers: HumanEval's file format, what is run of an answer, and what is counted."""

import gzip
import json
from pathlib import Path

import pytest

from luthier.errors import DataError
from luthier.evaluate import code
from luthier.evaluate.code import humaneval, program_of
from luthier.evaluate.items import Task
from luthier.evaluate.marking import mark, summarise
from luthier.evaluate.sandbox import Ran, isolation

ROW = {
    "task_id": "Own/0",
    "prompt": 'import math\n\n\ndef half(x):\n    """Half of x, rounded up."""\n',
    "entry_point": "half",
    "canonical_solution": "    return math.ceil(x / 2)\n",
    "test": "def check(candidate):\n    assert candidate(3) == 2\n    assert candidate(4) == 2\n",
}
needs_isolation = pytest.mark.skipif(isolation()[0] == "none", reason="nothing isolates here")


def task(folder: Path, **settings: object) -> Task:
    path = folder / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode()))
    (found,) = humaneval(path, "he", **settings)  # type: ignore[arg-type]
    return found


@needs_isolation
@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("    return math.ceil(x / 2)\n", 1.0),
        ("    return x / 2\n", 0.0),
        ("    return math.ceil(x / 2", 0.0),
    ],
)
def test_a_completion_runs_with_its_prompt(answer: str, score: float, tmp_path: Path) -> None:
    plain = task(tmp_path, plain=True)
    assert plain.items[0].text == ROW["prompt"]
    (found,) = mark(plain, plain.items, [[{"text": answer, "stopped": True, "tokens": 9}]])
    assert found.score == score


@pytest.mark.parametrize(
    "answer",
    [
        "Sure!\n```python\nimport math\ndef half(x):\n    return math.ceil(x / 2)\n```\nDone.",
        "```\ndef half(x):\n    return math.ceil(x / 2)\n```",
        "def half(x):\n    return math.ceil(x / 2)",
        "```python\ndef half(x):\n    return math.ceil(x / 2)",
    ],
)
def test_of_a_chat_answer_the_code_is_run(answer: str, tmp_path: Path) -> None:
    chat = task(tmp_path)
    program = program_of(answer, chat.items[0])
    names: dict[str, object] = {}
    exec(program, names)
    assert names["half"](3) == 2  # type: ignore[operator]


@needs_isolation
def test_pass_at_k_over_samples(tmp_path: Path) -> None:
    many = task(tmp_path, plain=True, samples=20)
    said = [
        {"text": ROW["canonical_solution"] if k < 5 else "    return 0\n", "stopped": True, "tokens": 5}
        for k in range(20)
    ]
    one, ten = summarise(many, mark(many, many.items, [said]))
    assert one.value == pytest.approx(0.25)
    assert ten.value == pytest.approx(
        1 - (15 * 14 * 13 * 12 * 11 * 10 * 9 * 8 * 7 * 6) / (20 * 19 * 18 * 17 * 16 * 15 * 14 * 13 * 12 * 11)
    )


def test_a_sandbox_that_breaks_fails_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "run_programs", lambda programs, *a, **k: [Ran("sandbox", "", 0.0)] * len(programs))
    plain = task(tmp_path, plain=True)
    answers = mark(plain, plain.items, [[{"text": "x", "stopped": True, "tokens": 1}]])
    (metric,) = summarise(plain, answers)
    assert (metric.n, metric.failed) == (0, 1)


def test_a_row_without_tests_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({k: v for k, v in ROW.items() if k != "test"}) + "\n")
    with pytest.raises(DataError, match=r'rows\.jsonl:1: no "test" here'):
        humaneval(path, "he")
