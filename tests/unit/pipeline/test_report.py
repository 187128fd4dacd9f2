"""The report says what the files say, at any point of a run, and nothing from the rows can act on the page."""

import json
import re
from html.parser import HTMLParser

import pytest

from luthier.events import Resumed, RunFinished, RunStarted, StageFailed, StageStarted, Step, Stopped, Validated
from luthier.pipeline.report import write_report
from luthier.pipeline.report_answers import marked, sample
from luthier.pipeline.report_charts import loss_chart, ticks
from luthier.pipeline.story import STAGES, tell
from luthier.pipeline.words import count, number, share, size
from luthier.runs import Run

ALLOWED = """
html head meta title style body header section footer article figure figcaption h1 h2 p small b i em mark pre dl dt dd
div span ul li table thead tbody tr th td details summary svg line circle text path
"""


class Page(HTMLParser):
    """The page as a browser takes it: its elements, and the text a person sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.parts: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.parts.append(data)


def html(run: Run) -> str:
    return write_report(run).read_text(encoding="utf-8")


def text(run: Run) -> str:
    return Page(html(run)).text


def facts(run: Run) -> dict:
    return json.loads((run.artifacts["dataset"] / "facts.json").read_text())


def test_every_fate_is_shown_and_they_add_up(finished: Run) -> None:
    seen = text(finished)
    read = facts(finished)["read"]
    for name, n in facts(finished)["fates"].items():
        assert f"{name} {count(n)} {share(n, read)}" in seen
    assert f"= {count(read)}: every one of the {count(read)} rows read" in seen


def test_rows_that_got_lost_are_called_out(finished: Run) -> None:
    body = facts(finished) | {"read": 5000}
    (finished.artifacts["dataset"] / "facts.json").write_text(json.dumps(body))
    assert "the ledger does not add up" in text(finished)


def test_nothing_from_the_data_becomes_an_element(finished: Run) -> None:
    page = Page(html(finished))
    assert page.seen <= set(ALLOWED.split())
    assert not page.open
    assert not {a for a in page.attributes if a.startswith("on") or a in ("href", "src", "xlink:href")}
    assert '<script>alert("x")</script>' in page.text  # it is shown, as text


def test_the_page_needs_nothing_from_elsewhere(finished: Run) -> None:
    source = html(finished)
    assert "<script" not in source.lower()
    assert not re.search(r"url\(|@import|https?://", source)


def test_numbers_are_those_of_the_files(finished: Run) -> None:
    seen = text(finished)
    for stage in ("baseline", "evaluation"):
        for row in json.loads((finished.artifacts[stage] / "metrics.json").read_text()).values():
            assert f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]" in seen
    plan = json.loads((finished.artifacts["plan"] / "plan.json").read_text())
    training = json.loads((finished.artifacts["model"] / "training.json").read_text())
    parity = json.loads((finished.artifacts["release"] / "parity.json").read_text())
    assert f"{count(plan['trainable_parameters'])} of {count(plan['total_parameters'])}" in seen
    assert all(f"{name} {size(n)}" in seen for name, n in plan["memory"].items() if name != "total")
    assert f"{number(training['best_loss'])} at update {training['best_step']}" in seen
    assert f"all {count(parity['tokens_compared'])} tokens" in seen
    assert "a1" * 32 in seen


def test_every_rule_with_its_verdict(finished: Run) -> None:
    seen = text(finished)
    for rule in json.loads((finished.artifacts["verdict"] / "verdict.json").read_text())["rules"]:
        assert rule["rule"] in seen
        assert rule["reason"] in seen
        assert number(rule["after"]) in seen
    assert "2 of 4 rules hold." in seen


@pytest.mark.parametrize("missing", STAGES)
def test_a_missing_stage_is_not_run_yet(finished: Run, missing: str) -> None:
    finished.events.unlink()
    del finished.artifacts[missing]
    assert f"{missing} not run yet" in text(finished)


def test_a_run_of_which_nothing_was_run(fresh: Run) -> None:
    seen = text(fresh)
    assert "Not run yet" in seen
    assert all(f"{stage} not run yet" in seen for stage in STAGES)


def test_a_failed_stage_shows_its_error(fresh: Run) -> None:
    log = fresh.log()
    log.write(StageStarted("model"))
    log.write(StageFailed("model", "the loss is not finite at update 3\n  -> lower <the> learning rate"))
    assert "model failed. the loss is not finite at update 3 -> lower <the> learning rate" in text(fresh)
    log.write(StageStarted("model"))
    assert "model under way" in text(fresh)
    log.write(RunStarted("luthier run", []))
    assert "model interrupted" in text(fresh)
    log.write(StageStarted("model"))
    log.write(RunFinished("interrupted"))
    assert "model interrupted" in text(fresh)


def test_damaged_files_are_named_not_fatal(finished: Run) -> None:
    for stage, name in (("dataset", "facts.json"), ("evaluation", "answers.jsonl"), ("plan", "plan.json")):
        (finished.artifacts[stage] / name).write_text('{"read": ')
    (finished.artifacts["verdict"] / "verdict.json").unlink()
    seen = text(finished)
    assert "facts.json cannot be read" in seen
    assert "verdict.json cannot be read: No such file" in seen


def test_empty_and_strange_files_are_survived(finished: Run) -> None:
    for stage, name in (
        ("dataset", "facts"),
        ("evaluation", "metrics"),
        ("plan", "plan"),
        ("verdict", "verdict"),
        ("release", "parity"),
    ):
        (finished.artifacts[stage] / f"{name}.json").write_text("{}")
    (finished.artifacts["baseline"] / "metrics.json").write_text(
        '{"validation_loss": {"value": null, "low": "nan", "n": 3}}'
    )
    assert "not finite" in text(finished)


def test_a_curve_taken_back_by_a_resume_is_drawn_once(finished: Run) -> None:
    steps, validations = tell(finished).steps, tell(finished).validations
    assert [s.step for s in steps] == list(range(1, 401))
    assert max(s.loss for s in steps) < 10  # the updates that were taken back had losses of thousands
    drawn = str(loss_chart(steps, validations))
    assert drawn in html(finished)
    assert drawn.count('class="dot after"') == len(validations) == 10
    assert "Resumed after update 130" in text(finished)


def test_a_stopped_training_says_why(fresh: Run) -> None:
    log = fresh.log()
    for event in (
        Step(1, float("nan"), 1e-3, 1.0, 10, 5.0),
        Step(2, 1.5, 1e-3, 1.0, 20, 5.0),
        Validated(2, 1.25, True),
    ):
        log.write(event)
    log.write(Stopped(2, "no better validation loss 3 times"))
    assert "no better validation loss 3 times" in text(fresh)
    assert "best 1.250 at update 2" in text(fresh)
    log.write(Resumed(0))
    assert "no better validation loss" not in text(fresh)


def test_a_long_curve_stays_small_and_keeps_its_spike() -> None:
    steps = [Step(i, 9.0 if i == 7777 else 1.0, 1e-3, 1.0, i, 5.0) for i in range(1, 20_001)]
    drawn = str(loss_chart(steps, []))
    assert len(drawn) < 40_000
    assert " 0.0L" in drawn  # the spike meets the upper border


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 400, [0, 100, 200, 300, 400]), (0.31, 0.62, [0.4, 0.5, 0.6]), (3, 3, [3])]
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_the_sample_shows_what_broke(finished: Run) -> None:
    asked = tell(finished).asked
    shown = sample(asked)
    assert len(shown) == 12
    assert {a.change for a in shown} == {"mended", "broken", "wrong both times"}
    assert sample(asked[:5])
    assert sample([]) == []
    assert len({(a.task, a.item) for a in shown}) == 12


def test_differences_are_marked() -> None:
    assert marked('{"a": yes}', '{"a": true}') == "{&#34;a&#34;: <mark>yes</mark>}"
    assert marked("<b>", "something else") == "<mark>&lt;b&gt;</mark>"
    assert '<i class="gap"' in marked("one two", "one two three")


def test_halves_of_characters_can_be_written(finished: Run) -> None:
    path = finished.artifacts["verdict"] / "verdict.json"
    path.write_text('{"verdict": "pass", "rules": [{"rule": "a \\ud83d improves", "verdict": "pass"}]}')
    assert "a ? improves" in text(finished)


def test_the_drawing_agrees_with_the_gate(finished: Run) -> None:
    """What falls is better for a bound from above; a difference of a loss is already an improvement."""
    path = finished.artifacts["verdict"] / "verdict.json"
    gain = {"value": 2.5, "low": 2.4, "high": 2.6}
    rules = [{"rule": "validation_loss improves", "verdict": "pass", "after": 0.5, "difference": gain}]
    path.write_text(json.dumps({"verdict": "pass", "rules": rules}))
    assert float(re.findall(r'cx="([\d.]+)%" cy="12"', html(finished))[0]) > 50
    rules = [{"rule": "validation_loss at most 0.9", "verdict": "pass", "after": 0.512, "difference": None}]
    path.write_text(json.dumps({"verdict": "pass", "rules": rules}))
    assert float(re.findall(r'cx="([\d.]+)%" cy="12"', html(finished))[0]) > 50


def test_a_release_that_is_not_the_trained_model_is_called_out(finished: Run) -> None:
    path = finished.artifacts["release"] / "parity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokens_equal": True, "holds": False}))
    assert "does not answer as the trained one does" in text(finished)
