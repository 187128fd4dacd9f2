"""The stages that measure and decide: which tasks a recipe means, asking them, and the verdict with all it rests on."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from luthier import events
from luthier.artifact import Artifact, digest, open_artifact, write_text
from luthier.errors import DataError, RecipeError
from luthier.evaluate.answers import Results
from luthier.evaluate.attribution import Trace
from luthier.evaluate.code import unsandboxed
from luthier.evaluate.failures import Training
from luthier.evaluate.gate import rules_of
from luthier.evaluate.items import Task
from luthier.evaluate.lock import code_digest
from luthier.evaluate.looks import Looks
from luthier.evaluate.promoted import Promoted
from luthier.evaluate.safety.guards import guarded
from luthier.evaluate.tasks import find_tasks, own_tasks, with_reserve
from luthier.evaluate.verdict import Evidence, reach
from luthier.pipeline.work import Work
from luthier.recipe import Rule, Tuning
from luthier.recipe.tuning import Freeze, Full, Lora, Qlora
from luthier.text import TokenRows, load_rows
from luthier.types import Example, Json, Pair

VLLM = "evaluate.sampler=vllm"


def read_examples(path: Path) -> list[Example]:
    """The conversations of one side of the dataset; of a pair the one with the chosen answer."""
    with path.open(encoding="utf-8") as file:
        return [_example(json.loads(line)) for line in file]


def _example(row: Json) -> Example:
    if "chosen" not in row:
        return Example.from_json(row)
    pair = Pair.from_json(row)
    return Example(pair.source, pair.line, pair.prompt + pair.chosen, tools=pair.tools)


def suites_of(work: Work) -> list[Task]:
    """Every suite that the recipe names, by what it is for, and the attacks of its red-team tool."""
    named = [task for role, names in work.suites.items() for task in find_tasks(names, work.run.home, role)]
    return [guarded(task, work.guard) if work.guard else task for task in (*named, *work.attacks)]


def tasks_of(work: Work) -> list[Task]:
    """Everything that is asked, as the recipe wants it asked."""
    asked = work.recipe.evaluate
    examples = read_examples(work.artifacts["dataset"].path("validation.jsonl"))
    tasks = own_tasks(work.tasks(work.conversations), examples, work.run.home, asked.max_items)
    tasks += [with_reserve(task, work.recipe.gate.reserve, rotation(work, task)) for task in suites_of(work)]
    if asked.unsafe_code:
        tasks = [unsandboxed(task) for task in tasks]
    if asked.max_new_tokens is not None:
        tasks = [replace(task, decoding=replace(task.decoding, max_new_tokens=asked.max_new_tokens)) for task in tasks]
    return tasks


def looks_of(work: Work) -> Looks:
    """The ledger of looks, beside the runs."""
    return Looks(work.store.root.parent / "looks.jsonl")


def rotation(work: Work, task: Task) -> int:
    """How often a suite's items were drawn anew from its reserve: once for every so many decisions on other models."""
    return looks_of(work).rotation(task.name, task.whole(), work.run.name) if work.recipe.gate.reserve else 0


def promoted_of(work: Work) -> Artifact | None:
    """The evaluation of the model of this name that was released before this one, if it is still there."""
    folder = _promoted(work).before(work.recipe.name, work.artifacts["evaluation"].sha256)
    try:
        return open_artifact(work.store.root / folder) if folder else None
    except DataError:
        return None  # it was removed: there is nothing to compare with any more


def _promoted(work: Work) -> Promoted:
    return Promoted(work.store.root.parent / "promoted.jsonl")


def note_promoted(work: Work) -> None:
    """Remember that this run's model was released."""
    evaluation = work.artifacts["evaluation"]
    _promoted(work).note(work.recipe.name, evaluation.sha256, evaluation.folder.name)


def gate_rules(work: Work) -> list[Rule]:
    """The rules, for the tasks that the evaluation asked."""
    answered = work.recipe.objective.rows != "prompts" or work.conversations
    return rules_of(work.recipe.gate, tasks_of(work), pairs=work.pairs, scores=work.scores, answered=answered)


def gate_settings(work: Work) -> dict[str, Any]:
    """What a verdict depends on besides the evaluations."""
    last, gate = promoted_of(work), work.recipe.gate
    return {
        "rules": [rule.text for rule in gate_rules(work)],
        "promoted": last.sha256 if last else None,
        "signed": [gate.accept_inconclusive, gate.signed_by],
        "code": code_digest(),
    }


def evaluate_model(work: Work, model: Any, name: str, out: Path, *, calibrate: bool = False) -> None:
    """Ask a model everything and write it down; the base is asked part of it again, to learn what chance alone does."""
    from luthier.evaluate.runner import evaluate

    tasks = tasks_of(work)
    again = work.recipe.gate.calibration if calibrate else 0
    validation = load_rows(work.artifacts["dataset"].path("validation.safetensors"))
    kind: dict[str, Any] = {"pairs": work.pairs, "scores": work.scores, "trained": _some_trained(work, len(validation))}
    with _candidate(work, model, name) as candidate:
        evaluate(candidate, tasks, validation, out, calibration=again, progress=_progress(work, tasks), **kind)


def _some_trained(work: Work, count: int) -> TokenRows:
    """About as many of the training rows, spread over all of them; pairs whole."""
    rows, group = load_rows(work.artifacts["dataset"].path("train.safetensors")), 2 if work.pairs else 1
    every = max(1, len(rows) // max(group, count))
    return rows.select([group * k + i for k in range(0, len(rows) // group, every) for i in range(group)])


@contextmanager
def _candidate(work: Work, model: Any, name: str) -> Iterator[Any]:
    from luthier.evaluate.asking import Candidate
    from luthier.evaluate.cache import Memory
    from luthier.models.vllm import Vllm

    plan = work.artifacts["plan"].json("plan.json")
    by_vllm = work.recipe.evaluate.sampler == "vllm"
    said_by = f"{work.base_identity} {name} {plan['dtype']}" + " vllm" * by_vllm
    memory = Memory(work.store.root / "answers", said_by)
    writer = Vllm(model, work.tokenizer, work.base, VLLM) if by_vllm else None
    try:
        yield Candidate(model, work.tokenizer, work.stop, plan["packing"], memory, writer)
    finally:
        if writer is not None:
            writer.close()


def need_writer(tuning: Tuning) -> None:
    """Say before anything is asked that vLLM cannot write for models tuned like this.

    Raises:
        RecipeError: it knows no such adapter.
    """
    what = f"{tuning.kind} tuning"
    if isinstance(tuning, Full | Freeze):
        return
    if isinstance(tuning, Lora) and not isinstance(tuning, Qlora):
        if not tuning.dora and not tuning.modules_to_save:
            return
        what = "DoRA" if tuning.dora else "whole layers beside an adapter"
    raise RecipeError(f"vLLM has no place for {what}", where=VLLM, fix="leave evaluate.sampler out")


def _progress(work: Work, tasks: Sequence[Task]) -> Any:
    total, done = sum(len(task.items) * task.decoding.samples for task in tasks), 0

    def progress(n: int) -> None:
        nonlocal done
        done += n
        work.watch.progress(min(done, total), total, "answers")

    return progress


def read_results(found: Artifact) -> Results:
    """An evaluation as it lies on disk."""
    with found.path("answers.jsonl").open(encoding="utf-8") as answers:
        return Results.read(found.json, answers)


def make_verdict(work: Work, out: Path, load: Any) -> None:
    """Decide, and write `verdict.json`; where the first look cannot, the reserve is asked for the second.

    Args:
        work: with both evaluations.
        out: an existing folder.
        load: gives the base for "base" and the tuned model for "tuned".
    """
    baseline, evaluation = work.artifacts["baseline"], work.artifacts["evaluation"]
    tasks, rules = tasks_of(work), gate_rules(work)
    last = promoted_of(work)
    steps, validations = events.training_curve(work.run.events)
    evidence = Evidence(
        before=read_results(baseline),
        after=read_results(evaluation),
        promoted=read_results(last) if last else None,
        calibration=baseline.json("calibration.json"),
        rows=read_examples(work.artifacts["dataset"].path("train.jsonl")),
        training=Training([v.loss for v in validations], [s.loss for s in steps], _said(work)),
        hashes=_hashes(work),
        look=1 if any(task.reserve for task in tasks) else 0,
        trace=_trace(work, tasks, read_results(evaluation)),
    )
    verdict = reach(rules, evidence)
    if evidence.look and verdict["verdict"] == "inconclusive":
        verdict = reach(rules, _second_look(work, evidence, tasks, load))
    _note(work, verdict, [rule.text for rule in rules])
    write_text(out / "verdict.json", json.dumps(verdict, indent=1) + "\n")


def _said(work: Work) -> str | None:
    """What training said of its two curves."""
    found: str | None = work.artifacts["model"].json("training.json").get("overfitting")
    return found


def _trace(work: Work, tasks: Sequence[Task], after: Results) -> Trace | None:
    """The models on the way, where training kept some; none is loaded before one is asked."""
    if not work.recipe.training.trace:
        return None
    from luthier.evaluate.asking import ask
    from luthier.train.fit import Job, on_the_way, traced

    tuned, plan = work.artifacts["model"], work.artifacts["plan"].json("plan.json")
    tuning: Tuning = TypeAdapter(Tuning).validate_python(plan["tuning"])
    job = Job(work.recipe, tuning, plan, work.base, work.artifacts["dataset"].folder, tuned.folder)
    loaded: list[Any] = []

    def score(step: int, suite: str, items: Collection[str]) -> float:
        if not loaded:
            loaded.append(on_the_way(job))
        task = next(task for task in tasks if task.name == suite)
        broken = tuple(item for item in (*task.items, *task.reserve) if (item.family or item.id) in items)
        with _candidate(work, loaded[0](step), f"{tuned.sha256} at {step}") as candidate:
            answers = ask(candidate, replace(task, items=broken, reserve=()))
        found = replace(after, answers={suite: answers}).scores(suite)
        return sum(found.values()) / max(1, len(found))

    steps = [*traced(tuned.folder), tuned.json("training.json")["best_step"]]
    return Trace(steps, score, {task.name for task in tasks if task.items})


def _second_look(work: Work, evidence: Evidence, tasks: Sequence[Task], load: Any) -> Evidence:
    from luthier.evaluate.runner import with_answers

    more = [replace(task, items=task.reserve, reserve=()) for task in tasks if task.reserve]
    sides = {}
    for side, results in (("base", evidence.before), ("tuned", evidence.after)):
        model, name = load(side)
        with _candidate(work, model, name) as candidate:
            sides[side] = with_answers(results, candidate, tasks, more, _progress(work, more))
        del model
    return replace(evidence, before=sides["base"], after=sides["tuned"], promoted=None, look=2)


def _hashes(work: Work) -> dict[str, str]:
    found = {name: work.artifacts[name].sha256 for name in ("dataset", "model", "baseline", "evaluation")}
    lock = work.artifacts["evaluation"].json("suites.json")
    return {
        **found,
        "base": work.base_identity,
        "template": lock["template"],
        "suites": lock["sha256"],
        "code": lock["code"],
        "environment": digest(_environment(work)),
    }


def _environment(work: Work) -> Any:
    path = work.run.folder / "lock.json"
    return json.loads(path.read_text(encoding="utf-8")).get("versions") if path.exists() else None


def _note(work: Work, verdict: dict[str, Any], rules: list[str]) -> None:
    """Write the look down; what it should make one doubt goes into the verdict, beside what was signed."""
    looks, gate = looks_of(work), work.recipe.gate
    model = work.artifacts["evaluation"].sha256
    suites = {task.name: task.whole() for task in tasks_of(work) if task.role != "task"}
    verdict["overrides"] = looks.overrides(model, suites, rules)
    if gate.accept_inconclusive and verdict["verdict"] == "inconclusive":
        verdict["overrides"].append(f"inconclusive, accepted by {gate.signed_by or 'the recipe, nobody signed'}")
    looks.write(work.run.name, model, suites, rules, verdict["verdict"])
    verdict["warnings"] = looks.warnings(suites)
    for warning in [*verdict["warnings"], *verdict["overrides"]]:
        work.log.write(events.Warned(warning))
