"""The summary fits a terminal, reads the same without colour, and cannot be steered by the rows."""

import io
import json

import pytest
from rich.console import Console

from luthier.events import StageFailed, StageStarted, Step, Validated
from luthier.pipeline.report import write_report
from luthier.pipeline.summary import summary
from luthier.pipeline.words import count, number
from luthier.runs import Run


def shown(run: Run, *, width: int = 100, encoding: str = "utf-8", colour: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Console(file=file, width=width, force_terminal=colour, no_color=not colour, legacy_windows=False).print(
        summary(run)
    )
    return raw.getvalue().decode(encoding)


def test_it_fits_and_tells_the_whole(finished: Run) -> None:
    report = write_report(finished)
    seen = shown(finished)
    lines = seen.rstrip("\n").split("\n")
    wrapped = (len("report    ") + len(str(report)) - 1) // 100  # a long path is folded, to be copied whole
    assert len(lines) <= 26 + wrapped
    assert max(map(len, lines)) <= 100
    assert lines[-1] == f"luthier chat {finished.name}"
    assert str(report) in seen.replace("\n", "")
    assert "\x1b" not in seen
    for name, n in json.loads((finished.artifacts["dataset"] / "facts.json").read_text())["fates"].items():
        assert any(count(n) in line and name in line for line in lines)
    for row in json.loads((finished.artifacts["evaluation"] / "metrics.json").read_text()).values():
        assert f"{number(row['value'])}  [{number(row['low'])}, {number(row['high'])}]" in seen
    assert "✗ fail" in seen
    assert "? inconclusive" in seen
    assert "✓ pass" in seen


@pytest.mark.parametrize("width", [40, 80])
def test_narrow_and_ascii_consoles(finished: Run, width: int) -> None:
    seen = shown(finished, width=width, encoding="ascii")
    assert seen.rstrip().endswith(f"luthier chat {finished.name}")


def test_colour_changes_nothing_but_colour(finished: Run) -> None:
    plain = Console(file=io.StringIO(), width=100)
    coloured = shown(finished, colour=True)
    assert "\x1b[32m✓ pass" in coloured
    assert "\x1b[2mrows      \x1b[0m1,104" in coloured  # the label is dim, the number is not
    plain.begin_capture()
    plain.print(summary(finished))
    assert plain.end_capture() == shown(finished)


def test_rows_cannot_steer_the_terminal(finished: Run) -> None:
    path = finished.artifacts["dataset"] / "facts.json"
    body = json.loads(path.read_text())
    body["reasons"]["duplicate"] = "\x1b[2J\x1b]0;owned\x07 [bold]not markup[/bold]\nsecond line"
    path.write_text(json.dumps(body))
    seen = shown(finished)
    assert "\x1b" not in seen
    assert "\x07" not in seen
    assert "[bold]not markup[/bold] second line" in seen


def test_many_fates_share_the_last_line(finished: Run) -> None:
    path = finished.artifacts["dataset"] / "facts.json"
    path.write_text(json.dumps({"read": 55, "fates": {f"fate{i}": i for i in range(11)}}))
    assert "6 other fates" in shown(finished)


def test_nothing_run_and_training_under_way(fresh: Run) -> None:
    assert "no verdict yet" in shown(fresh)
    assert "luthier chat" not in shown(fresh)
    log = fresh.log()
    log.write(Step(7, 1.5, 1e-3, 1.0, 20, 512.0))
    log.write(Validated(7, 1.25, True))
    assert "7 updates so far, 512 tokens/s, best validation loss 1.250 at update 7" in shown(fresh)


def test_a_failed_stage_is_read_to_its_end(fresh: Run) -> None:
    log = fresh.log()
    log.write(StageStarted("dataset"))
    log.write(StageFailed("dataset", "tickets.jsonl:3: no answer " + "very " * 40 + "long -> mend the row"))
    assert "mend the row" in " ".join(shown(fresh).split())
