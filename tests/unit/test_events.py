"""The log: nothing that was written is lost, nothing torn is believed."""

import errno
import json
import math
import os
from pathlib import Path

import pytest

from luthier import events
from luthier.errors import Missing
from luthier.events import KINDS, Checkpointed, Event, Log, Resumed, RunFinished, Step, Validated, Warned, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def step(number: int, loss: float = 1.0) -> Step:
    return Step(number, loss, 1e-4, 0.5, 100 * number, 10.0)


def kinds(path: Path) -> list[Event]:
    return [event for _, event in read(path)]


def test_events_come_back_as_they_were_written(path: Path) -> None:
    written = [
        step(1),
        Validated(1, 0.5, best=True),
        Checkpointed(1, "checkpoint-1"),
        Warned("ü\n\u2028"),
        RunFinished("done"),
    ]
    log = Log(path)
    for event in written:
        log.write(event)
    assert kinds(path) == written
    moments = [moment for moment, _ in read(path)]
    assert moments == sorted(moments)
    assert len(path.read_bytes().splitlines()) == len(written)


def test_a_log_that_is_not_there_is_empty(path: Path) -> None:
    assert kinds(path) == []


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_torn_last_line_is_skipped_and_not_glued_to_the_next(path: Path, cut: int) -> None:
    log = Log(path)
    for number in (1, 2):
        log.write(step(number))
    path.write_bytes(path.read_bytes()[:-cut])
    survived = [step(1), step(2)] if cut == 1 else [step(1)]  # only the line's end was lost: the event is whole
    assert kinds(path) == survived
    Log(path).write(step(3))
    assert kinds(path) == [*survived, step(3)]


def test_a_line_torn_inside_a_character_is_skipped(path: Path) -> None:
    Log(path).write(Warned("ü"))
    path.write_bytes(path.read_bytes()[: path.read_bytes().index("ü".encode()) + 1])
    Log(path).write(step(1))
    assert kinds(path) == [step(1)]


@pytest.mark.parametrize(
    "line",
    [
        '{"v": 9, "time": 1.0, "event": "tuned_the_strings", "pegs": 4}',
        '{"v": 1, "time": 1.0}',
        '{"v": 1, "time": 1.0, "event": ["step"]}',
        '{"v": 1, "time": 1.0, "event": "step", "step": 1}',
        '{"v": 1, "time": 1.0, "event": "validated", "step": 1, "loss": null, "best": true}',
        '{"v": 1, "event": "run_finished", "status": "done"}',
        "[]",
        "3",
        "",
    ],
)
def test_lines_that_this_version_cannot_read_are_skipped(path: Path, line: str) -> None:
    Log(path).write(step(1))
    with path.open("a") as file:
        file.write(line + "\n")
    Log(path).write(step(2))
    assert kinds(path) == [step(1), step(2)]


def test_fields_that_a_newer_version_added_are_left_out(path: Path) -> None:
    path.write_text('{"v": 1, "time": 1.0, "event": "run_finished", "status": "done", "mood": "good"}\n')
    assert kinds(path) == [RunFinished("done")]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_survive(path: Path, value: float) -> None:
    Log(path).write(step(1, loss=value))
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    (found,) = kinds(path)
    assert isinstance(found, Step)
    assert found.loss == value or (math.isnan(found.loss) and math.isnan(value))


def test_steps_taken_back_by_a_resume_are_not_counted_twice(path: Path) -> None:
    log = Log(path)
    for event in (
        step(1, 5),
        step(2, 4),
        Validated(2, 4, best=True),
        step(3, 3),
        Validated(3, 3, best=True),
        step(4, 2),
    ):
        log.write(event)
    log.write(Resumed(2))
    log.write(step(3, 2.5))
    steps, validations = events.training_curve(path)
    assert [(s.step, s.loss) for s in steps] == [(1, 5), (2, 4), (3, 2.5)]
    assert [v.step for v in validations] == [2]


def test_a_resume_from_the_start_takes_everything_back(path: Path) -> None:
    log = Log(path)
    for event in (step(1), Validated(1, 1, best=True), Resumed(0)):
        log.write(event)
    assert events.training_curve(path) == ([], [])


def test_two_writers_do_not_mix_their_lines(path: Path) -> None:
    one, two = Log(path), Log(path)
    for number in range(20):
        (one, two)[number % 2].write(step(number))
    assert kinds(path) == [step(number) for number in range(20)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_with_its_path(path: Path) -> None:
    path.symlink_to("/dev/full")
    with pytest.raises(Missing, match=os.strerror(errno.ENOSPC)) as caught:
        Log(path).write(step(1))
    assert caught.value.where == str(path)


def test_every_kind_has_a_name_of_its_own() -> None:
    assert set(KINDS.values()) >= {Step, Validated, Resumed}
    assert KINDS["stage_finished"] is events.StageFinished
    assert len({id(kind) for kind in KINDS.values()}) == len(KINDS)
