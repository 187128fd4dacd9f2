"""The end of a run in the terminal: the story of the report in about 25 lines."""

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, OverflowMethod, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from luthier.pipeline.story import FAILED, Story, as_mapping, tell
from luthier.pipeline.words import MINUS, MISSING, count, duration, number, printable, share, signed
from luthier.runs import Run
from luthier.types import Metric

FATES, METRICS, RULES, WARNINGS = 6, 5, 5, 1  # with these the whole stays at about 25 lines
LABEL = 10
TONES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def summary(run: Run) -> RenderableType:
    """What a person wants to know when a run ends; it reads the same without colour."""
    return _Summary(tell(run))


class _Summary:
    """Waits for the console to say whether it can show more than ASCII."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _Lines(self.story, plain=options.ascii_only).all()


class _Lines:
    """The parts, top to bottom. `plain` is true where only ASCII can be written."""

    def __init__(self, story: Story, *, plain: bool) -> None:
        self.story = story
        self.plain = plain
        self.overflow: OverflowMethod = "crop" if plain else "ellipsis"
        self.marks = {"pass": "+", "fail": "x"} if plain else {"pass": "✓", "fail": "✗"}

    def all(self) -> RenderableType:
        """Every part that the run has come to."""
        return Group(*self.facts(), *self.metrics(), *self.rules(), *self.end())

    def text(self, value: object, style: str = "", *, width: int = 0) -> Text:
        """Foreign text as it may be printed: never markup, never a control sign, one line."""
        line = printable(value)
        if self.plain:
            line = line.translate({ord(MINUS): "-", ord(MISSING): "-"}).encode("ascii", "replace").decode()
        line += " " * (width - cell_len(line))
        return Text(line, style=style, no_wrap=True, overflow=self.overflow)

    def line(self, *parts: Text) -> Text:
        """Parts side by side, each in its own style."""
        line = self.text("")
        for part in parts:
            line.append_text(part)
        return line

    def row(self, label: str, *parts: Text) -> Text:
        """A line with its label on the left."""
        return self.line(self.text(label, "dim", width=LABEL), *parts)

    def facts(self) -> Iterator[Text]:
        """Name and verdict, the rows, the method, the training, the warnings."""
        yield self.title()
        for i, line in enumerate(self.fates()):
            yield self.row("" if i else "rows", line)
        for label, value in (("method", self.method()), ("training", self.training())):
            if value:
                yield self.row(label, self.text(value))
        messages = self.story.problems + self.story.warnings
        for message in messages[:WARNINGS]:
            yield self.row("warning", self.text(message, "yellow"))
        if len(messages) > WARNINGS:
            yield self.row("", self.text(f"and {len(messages) - WARNINGS} more warnings in the report", "dim"))

    def title(self) -> Text:
        """The run's name and what came of it."""
        story, verdict = self.story, (self.story.verdict or {}).get("verdict")
        word = "failed" if story.failure else str(verdict or "no verdict yet")
        tone = "red" if story.failure else TONES.get(word, "dim")
        return self.row("run", self.text(story.run.name, "bold"), Text("  "), self.text(word, f"bold {tone}"))

    def fates(self) -> Iterator[Text]:
        """One line a fate; when there are too many, the rarest share the last line."""
        fates, facts = self.story.fates, self.story.facts or {}
        shown = fates if len(fates) <= FATES else fates[: FATES - 1]
        rows = [(n, name, as_mapping(facts.get("reasons")).get(name) or "") for name, n in shown]
        if rest := fates[len(shown) :]:
            rows.append((sum(n for _, n in rest), f"{len(rest)} other fates", ", ".join(name for name, _ in rest)))
        width = max((len(count(n)) for n, _, _ in rows), default=0)
        names = min(24, max((cell_len(printable(name)) for _, name, _ in rows), default=0))
        for n, name, reason in rows:
            numbers = Text(f"{count(n):>{width}} {share(n, facts.get('read', 0)):>8}  ")
            yield self.line(numbers, self.text(name, width=names + 2 if reason else 0), self.text(reason, "dim"))

    def method(self) -> str:
        """The method and how much of the model it trains."""
        plan = self.story.plan
        if not plan:
            return ""
        trained, total = plan.get("trainable_parameters") or 0, plan.get("total_parameters") or 0
        return f"{plan.get('method')}: trains {count(trained)} of {count(total)} parameters ({share(trained, total)})"

    def training(self) -> str:
        """Updates, speed and the best validation loss; of a run under way what the log says so far."""
        training, best = self.story.training, self.story.best
        if training:
            step = count(training.get("best_step"))
            score, loss = training.get("held_out"), number(training.get("best_loss"))
            best_of = f"validation loss {loss}" if score is None else f"held-out score {number(score)}"
            parts = [
                f"{count(training.get('steps'))} updates in {duration(training.get('seconds'))}",
                f"{count(training.get('tokens_per_second'))} tokens/s",
                f"best {best_of} at update {step}",
            ]
            return ", ".join([*parts, f"stopped: {training['stopped']}"] if training.get("stopped") else parts)
        if not self.story.steps:
            return ""
        last = self.story.steps[-1]
        so_far = f"{count(last.step)} updates so far, {count(last.tokens_per_second)} tokens/s"
        return so_far + (f", best validation loss {number(best.loss)} at update {count(best.step)}" if best else "")

    def metrics(self) -> Iterator[RenderableType]:
        """Before and after, with intervals."""
        names = self.story.metric_names
        if not names:
            return
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("", no_wrap=True, overflow=self.overflow, max_width=32)
        for heading in ("before", "", "after", "", "items"):
            table.add_column(heading, justify="right", no_wrap=True, overflow=self.overflow)
        for name in names[:METRICS]:
            before, after = self.story.before.get(name), self.story.after.get(name)
            items = count(measured.n) if (measured := after or before) else ""
            table.add_row(self.text(name), *self.measured(before), *self.measured(after), items)
        yield Text("")
        yield table
        if len(names) > METRICS:
            yield self.text(f"and {len(names) - METRICS} more metrics in the report", "dim")

    def measured(self, metric: Metric | None) -> tuple[Text, Text]:
        """A value and its interval."""
        if metric is None:
            return self.text(MISSING, "dim"), Text("")
        return self.text(number(metric.value)), self.text(f"[{number(metric.low)}, {number(metric.high)}]", "dim")

    def rules(self) -> Iterator[Text]:
        """The gate: a mark, the rule, what it found. When there are too many, those that do not hold come first."""
        rules = list((self.story.verdict or {}).get("rules", ()))
        if not rules:
            return
        yield Text("")
        shown = rules if len(rules) <= RULES else sorted(rules, key=lambda row: row.get("verdict") == "pass")[:RULES]
        width = min(48, max(cell_len(printable(row.get("rule"))) for row in shown))
        for row in shown:
            verdict, difference = str(row.get("verdict")), as_mapping(row.get("difference"))
            change = signed(difference.get("value")) if difference else number(row.get("after"))
            mark = self.text(f"{self.marks.get(verdict, '?')} {verdict}", TONES.get(verdict, ""), width=16)
            found = Text(f"{self.text(change).plain:>7}  ")
            rule, reason = self.text(row.get("rule"), width=width + 2), self.text(row.get("reason") or "", "dim")
            yield self.line(mark, rule, found, reason)
        if len(rules) > len(shown):
            yield self.text(f"and {len(rules) - len(shown)} more rules in the report", "dim")

    def end(self) -> Iterator[Text]:
        """What failed, where the report lies, and what to run next."""
        yield Text("")
        for stage in self.story.stages.values():
            if stage.state == FAILED:
                yield self.whole(self.text(f"{stage.name} failed: {stage.error}", "red"))
        report = self.story.run.folder / "report.html"
        if report.exists():
            yield self.whole(self.row("report", self.text(report)))
        if self.story.released and self.story.run.recipe.objective.kind != "reward":  # which gives scores only
            yield self.whole(self.text(f"luthier chat {self.story.run.name}", "bold"))

    def whole(self, line: Text) -> Text:
        """Let a line wrap: errors are read to their end, and paths and commands are copied."""
        line.no_wrap, line.overflow = False, "fold"
        return line
