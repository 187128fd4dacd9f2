"""Several processes give what one gives, in the same order; what goes wrong in one is told whole."""

import json
import pickle
from typing import Any

import pytest

from luthier.data import spread
from luthier.data.memory import Remembered
from luthier.data.outcome import Workshop
from luthier.data.raw import unread
from luthier.data.shapes import Reading
from luthier.data.shard import work_on
from luthier.data.spread import Spread
from luthier.data.step import Surroundings
from luthier.errors import Missing, RecipeError
from luthier.recipe import Curate

WORKSHOP = Workshop(Curate(), Surroundings(), None, 1000)


def shards(count: int) -> list[tuple[int, Any, int]]:
    lines = [json.dumps({"question": f"q {i}", "answer": "a" * (i % 3)}).encode() for i in range(10 * count)]
    rows = [unread("f", i, line) for i, line in enumerate(lines, 1)]
    return [(n, (rows[10 * n : 10 * n + 10], Reading()), 500) for n in range(count)]


def test_processes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    with Spread(work_on, WORKSHOP, processes=1) as alone:
        expected = list(alone.map(shards(12)))
    monkeypatch.setattr(spread, "ALONE", 1000)
    with Spread(work_on, WORKSHOP, processes=2) as several:
        assert list(several.map(shards(12))) == expected
        assert several._pool is not None
    assert [name for name, _ in expected] == list(range(12))
    fate = Remembered._fields.index("fate")
    assert {outcome[fate] for _, found in expected for outcome in found.small} == {"kept", "empty_answer"}


def test_errors_come_whole_from_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RecipeError("no template", where="model.base", fix="choose another")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.what, again.where, again.fix) == (RecipeError, error.what, error.where, error.fix)
    monkeypatch.setattr(spread, "ALONE", 0)
    with Spread(work_on, WORKSHOP, processes=2) as several, pytest.raises(Missing, match="ended from outside"):
        consume_and_kill(several)


def consume_and_kill(several: Spread) -> None:
    for _ in several.map(shards(40)):
        assert several._pool is not None
        for process in several._pool._processes.values():
            process.kill()
