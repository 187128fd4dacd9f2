"""The report of a run: one self-contained page, `report.html`, that can be written at any point of it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from luthier.artifact import write_text
from luthier.pipeline import report_charts as charts
from luthier.pipeline import words
from luthier.pipeline.report_answers import marked, sample, shorten
from luthier.pipeline.report_rewards import rewards_of
from luthier.pipeline.story import CHANGES, DONE, Story, as_mapping, tell
from luthier.recipe import dump_recipe, parse_rule
from luthier.runs import Run
from luthier.types import Json

HERE = Path(__file__).parent
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "logits")
UNITS = {"examples": "nats per trained token", "pairs": "loss per pair", "ratings": "loss per rated answer"}
"""What the loss of an objective is a mean over, by the rows that it reads."""
VERDICT_WORDS = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}


def write_report(run: Run) -> Path:
    """Write `report.html` into the run folder and return its path."""
    path = run.folder / "report.html"
    # Rows may hold halves of characters, which UTF-8 has no bytes for.
    write_text(path, page(tell(run)).encode("utf-8", "replace").decode("utf-8"))
    return path


def page(story: Story) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("number", "signed", "small", "count", "share", "size", "duration")
    environment.filters.update({name: getattr(words, name) for name in names})
    environment.filters.update(marked=marked, shorten=shorten)
    template = environment.get_template("report.html.jinja")
    rewards = rewards_of(story)
    return template.render(
        # The style sheet is ours: escaping it would break its selectors.
        css=Markup((HERE / "report.css").read_text(encoding="utf-8")),  # noqa: S704
        story=story,
        run=story.run,
        recipe=story.run.recipe,
        date=datetime.fromtimestamp(story.started, UTC).strftime("%-d %B %Y") if story.started else "",
        outcome=_outcome(story),
        rules=[_rule(story, row) for row in (story.verdict or {}).get("rules", ())],
        verdict=_evidence(story),
        metrics=list(_metrics(story)),
        skills=list(_skills(story)),
        loss="" if rewards else charts.loss_chart(story.steps, story.validations),
        loss_unit=UNITS.get(story.run.recipe.objective.rows, "loss"),
        rewards=rewards,
        fates=list(_fates(story)),
        changes=_changes(story),
        answers=sample([asked for asked in story.asked if not asked.task.endswith(UNSAFE)]),
        system=_shared_system(story),
        memory=_memory(story),
        hardware=_hardware(story),
        released=_released(story),
        yaml=dump_recipe(story.run.recipe),
        lock=list(_flat(story.lock or {})),
    )


def _outcome(story: Story) -> Json:
    """The page's first line: a word, its colour and a sentence."""
    failure = story.failure
    if failure:
        return {"word": "Stopped", "tone": "fail", "sentence": f"{failure.name}: {failure.error}"}
    verdict = (story.verdict or {}).get("verdict")
    if verdict in VERDICT_WORDS:
        return {"word": VERDICT_WORDS[verdict], "tone": verdict, "sentence": _gate_sentence(story)}
    done = sum(stage.state == DONE for stage in story.stages.values())
    if not done:
        return {"word": "Not run yet", "tone": "open", "sentence": "Nothing has been made so far."}
    return {"word": "No verdict yet", "tone": "open", "sentence": f"{done} of {len(story.stages)} stages are done."}


def _gate_sentence(story: Story) -> str:
    """How many rules hold, and the names of those that do not."""
    rules = (story.verdict or {}).get("rules", ())
    if not rules:
        return "The gate has no rules."
    holding = sum(row.get("verdict") == "pass" for row in rules)
    failing = [str(row.get("rule")) for row in rules if row.get("verdict") == "fail"]
    undecided = [str(row.get("rule")) for row in rules if row.get("verdict") == "inconclusive"]
    parts = [f"All {holding} rules hold." if holding == len(rules) else f"{holding} of {len(rules)} rules hold."]
    parts += [f"Not so: {'; '.join(failing)}."] if failing else []
    parts += [f"Undecided: {'; '.join(undecided)}."] if undecided else []
    return " ".join(parts)


def _rule(story: Story, row: Json) -> Json:
    """One line of the gate with its drawing: the difference, or the value itself where the rule bounds that."""
    text = str(row.get("rule", ""))
    difference = as_mapping(row.get("difference"))
    try:
        metric, verb, bound, *_ = parse_rule(text)
    except ValueError:
        metric, verb, bound = text.split(" ")[0], "improves", None
    measured = story.after.get(metric)
    drawing, interval, demand = Markup(""), None, bound or 0.0
    if verb in ("improves", "drops at most") and difference:
        # The gate's differences are improvements when above 0, those of losses too.
        interval = {k: words.as_number(difference.get(k)) or 0.0 for k in ("value", "low", "high")}
        demand = -demand
    elif bound is not None and measured:
        interval = {"value": measured.value, "low": measured.low, "high": measured.high}
    if interval:
        label = f"{text}: {interval['value']:.3f}, from {interval['low']:.3f} to {interval['high']:.3f}"
        verdict = str(row.get("verdict"))
        drawing = charts.against(
            **interval, demand=demand, lower_is_better=verb == "at most", verdict=verdict, label=label
        )
    return {"text": text, "row": row, "difference": difference, "drawing": drawing}


UNSAFE = (".unsafe_compliance", ".jailbroken_compliance")
"""Tasks whose answers are repeated nowhere."""
EVIDENCE = ("trade", "failures", "attribution", "noise", "burnt")


def _evidence(story: Story) -> Json:
    """What the verdict says besides its rules; empty for one that an older Luthier reached."""
    return {name: (story.verdict or {}).get(name) or None for name in EVIDENCE}


def _metrics(story: Story) -> Iterator[Json]:
    for name in story.metric_names:
        before, after = story.before.get(name), story.after.get(name)
        label = f"{name}: before {before or 'not measured'}, after {after or 'not measured'}"
        yield {"name": name, "before": before, "after": after, "drawing": charts.before_after(before, after, label)}


def _skills(story: Story) -> Iterator[Json]:
    """Mean score a skill, before and after; what lost most comes first."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for asked in story.asked:
        if asked.group:
            groups.setdefault((asked.task, asked.group), []).append((asked.before.score, asked.after.score))
    means = {key: [sum(side) / len(scores) for side in zip(*scores, strict=True)] for key, scores in groups.items()}
    for (task, group), (before, after) in sorted(means.items(), key=lambda item: item[1][1] - item[1][0]):
        drawing = charts.dumbbell(before, after, f"{group}: {before:.3f} before, {after:.3f} after")
        n = len(groups[task, group])
        yield {"task": task, "name": group, "before": before, "after": after, "n": n, "drawing": drawing}


def _fates(story: Story) -> Iterator[Json]:
    reasons = as_mapping((story.facts or {}).get("reasons"))
    longest = max((n for _, n in story.fates), default=1) or 1
    for name, n in story.fates:
        yield {"name": name, "count": n, "width": f"{100 * n / longest:.2f}%", "reason": reasons.get(name) or ""}


def _changes(story: Story) -> list[Json]:
    counts = Counter(asked.change for asked in story.asked)
    total = len(story.asked) or 1
    return [{"name": n, "count": counts[n], "width": f"{100 * counts[n] / total:.3f}%"} for n in CHANGES if counts[n]]


def _shared_system(story: Story) -> str | None:
    """The system prompt, when all items of the job have the same: it is then shown once."""
    seen = {content for asked in story.asked for role, content in asked.prompt if role == "system"}
    return seen.pop() if len(seen) == 1 else None


def _memory(story: Story) -> Json | None:
    """The plan's memory by part, with the width of each on a bar as long as the whole."""
    given = as_mapping((story.plan or {}).get("memory"))
    memory = {k: float(v) for k, v in given.items() if isinstance(v, int | float)}
    total = memory.pop("total", None) or sum(memory.values())
    if not total:
        return None
    names = [*(n for n in MEMORY_PARTS if n in memory), *(n for n in memory if n not in MEMORY_PARTS)]
    parts = [{"name": n, "bytes": memory[n], "width": f"{100 * memory[n] / total:.3f}%"} for n in names]
    return {"parts": parts, "total": total}


def _hardware(story: Story) -> str:
    """The machine the plan was made for, in one line."""
    hardware = as_mapping((story.plan or {}).get("hardware"))
    cards = [as_mapping(card) for card in hardware.get("gpus") or ()]
    parts = [str(hardware[key]) for key in ("cpu",) if hardware.get(key)]
    parts += [f"{hardware['cores']} cores"] if hardware.get("cores") else []
    parts += [f"{words.size(hardware['memory'])} memory"] if hardware.get("memory") else []
    parts += [f"{card.get('name')} ({words.size(card.get('memory'))})" for card in cards] or ["no GPU"] * bool(parts)
    return ", ".join(parts)


def _released(story: Story) -> Json | None:
    folder = story.released
    if not folder:
        return None
    files = [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]
    return {"folder": str(folder), "files": files}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """A nested value as lines of `a.b.c` and the value there."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{i}")
    elif name != "version":
        yield name, str(value)
