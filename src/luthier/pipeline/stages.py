"""The table of stages: what each is made from, and the function that makes it.

A stage is stale when the key of its artifact (kind, settings, content of its parents) is not in the store. Settings
hold only what the result depends on: the plan's decisions enter the key of `model`, the plan's view of the machine
does not. Rooms with torch in them are imported when a stage runs, so that a run with nothing to do stays quick.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from luthier import events
from luthier.artifact import digest, write_text
from luthier.data.verdicts import verdicts_digest
from luthier.pipeline import review
from luthier.pipeline.judging import (
    evaluate_model,
    gate_settings,
    make_verdict,
    need_writer,
    rotation,
    suites_of,
)
from luthier.pipeline.releasing import make_release, release_settings
from luthier.pipeline.rewards import reward_inputs
from luthier.pipeline.view import write_samples
from luthier.pipeline.work import Work
from luthier.recipe import Tuning
from luthier.text import load_rows
from luthier.text.check import RowCheck, check_rows
from luthier.types import Example

BASE = "base"
"""The name under which what the base said is remembered."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A named step. `title` is what the user reads while it runs; raising `version` makes old artifacts stale."""

    name: str
    title: str
    parents: tuple[str, ...]
    settings: Callable[[Work], dict[str, Any]]
    make: Callable[[Work, Path], None]
    version: int = 1


def _dataset_settings(work: Work) -> dict[str, Any]:
    data = work.recipe.data.model_dump(mode="json")
    for name in ("max_rejected", "review"):  # they change what is done with a dataset, not the dataset
        data.pop(name)
    judged_by = digest([asdict(item) for item in work.evaluation_items])
    learns = work.recipe.objective.rows
    more = {"inputs": work.inputs, "base": work.base_identity, "evaluation": judged_by, "rows": learns}
    if any(verdict.defective for verdict in work.verdicts.values()):
        more["verdicts"] = verdicts_digest(work.verdicts)
    return {"data": data, "seed": work.recipe.seed, **more}


def _make_dataset(work: Work, out: Path) -> None:
    from luthier.data.curate import curate

    refused = work.run.folder / "ledger.jsonl"
    curate(
        work.recipe,
        work.run.home,
        work.tokenizer,
        work.base.context,
        out,
        memory=work.store.root / "rows",
        evaluation=work.evaluation_items,
        verdicts=work.verdicts,
        refused=refused,
        progress=work.watch.progress,
    )
    refused.unlink(missing_ok=True)  # of an earlier attempt
    if work.recipe.objective.rows == "examples":
        _check_rows(work, out)
    samples = write_samples(out, work.recipe, work.run.home, work.tokenizer)
    write_text(out / "samples.json", json.dumps({"rows": samples}, indent=1, ensure_ascii=False) + "\n")


def _stream(path: Path, every: int) -> Iterator[Example]:
    with path.open("rb") as file:
        yield from (Example.from_json(json.loads(line)) for line in islice(file, 0, None, every))


def _check_rows(work: Work, dataset: Path) -> None:
    """Is what will be trained what will be served? Looked at once more, by means that know nothing of the renderer."""
    check = RowCheck(work.tokenizer, work.stop)
    plain = json.loads((dataset / "facts.json").read_text(encoding="utf-8"))["shapes"].keys() <= {"text"}
    for side in ("train", "validation"):
        path = dataset / f"{side}.jsonl"
        rows = load_rows(dataset / f"{side}.safetensors")
        check_rows(rows, partial(_stream, path), len(rows), check, work.recipe.data.train, plain=plain)


def _plan_settings(work: Work) -> dict[str, Any]:
    r = work.recipe
    parts = {name: getattr(r, name).model_dump(mode="json") for name in ("model", "tuning", "training", "objective")}
    return {**parts, "base": work.base_identity, "hardware": str(work.hardware)}


def _make_plan(work: Work, out: Path) -> None:
    from luthier.models.counting import model_facts, trainable_parameters
    from luthier.models.load import machine_notes, training_dtype
    from luthier.plan import decide, with_changes

    asked = work.recipe.model.dtype
    counted: dict[str, int] = {}

    def count(tuning: Tuning) -> int:
        key = tuning.model_dump_json()
        if key not in counted:
            counted[key] = trainable_parameters(work.base, tuning, scores=work.recipe.objective.kind == "reward")
        return counted[key]

    facts, dataset = model_facts(work.base), work.artifacts["dataset"].json("facts.json")
    plan = decide(work.recipe, dataset, facts, work.hardware, training_dtype(asked), count, machine_notes(asked))
    for warning in plan.warnings:
        work.log.write(events.Warned(warning))
    plan = with_changes(
        plan,
        work.recipe,
        dataset,
        facts,
        count,
        lambda gpu: ("bfloat16" if gpu else "float32") if asked == "auto" else asked,
    )
    write_text(out / "plan.json", json.dumps(plan.to_json(), indent=1) + "\n")


def _evaluate_settings(work: Work) -> dict[str, Any]:
    suites = {k: v for k, v in work.inputs.items() if k.startswith(tuple(f"{role}: " for role in work.suites))}
    asked = work.recipe.evaluate.model_dump(mode="json") | {"retention": list(work.retention)}
    drawn = {task.name: rotation(work, task) for task in suites_of(work)} if work.recipe.gate.reserve else {}
    judges = {"guard": work.guard.identity} if work.guard else {}
    judges |= {task.name: task.whole() for task in work.attacks}
    return {
        "evaluate": asked,
        "judges": judges,
        "suites": suites,
        "reserve": [work.recipe.gate.reserve, drawn],
        "calibration": work.recipe.gate.calibration,
        "base": work.base_identity,
        "dtype": _plan(work)["dtype"],
        "kind": work.recipe.objective.kind if work.pairs else "answers",
    }


def _plan(work: Work) -> dict[str, Any]:
    content: dict[str, Any] = work.artifacts["plan"].json("plan.json")
    return content


def _tuning(work: Work) -> Tuning:
    tuning: Tuning = TypeAdapter(Tuning).validate_python(_plan(work)["tuning"])
    return tuning


def _make_baseline(work: Work, out: Path) -> None:
    _need_review(work)  # before the base model is asked for minutes
    if work.recipe.evaluate.sampler == "vllm":
        need_writer(_tuning(work))
    from luthier.models.load import load_model

    evaluate_model(work, load_model(work.base, _plan(work)["dtype"], scores=work.scores), BASE, out, calibrate=True)


def _model_settings(work: Work) -> dict[str, Any]:
    decided = (
        "tuning",
        "learning_rate",
        "batch_tokens",
        "micro_batch_tokens",
        "packing",
        "dtype",
        "recompute",
        "cheap",
        "compile",
    )
    replay = work.recipe.data.replay
    rewards = {"rewards": found} if (found := reward_inputs(work.recipe, work.run.home)) else {}
    return {
        **rewards,
        "plan": {name: _plan(work)[name] for name in decided},
        "training": work.recipe.training.model_dump(mode="json"),
        "objective": work.recipe.objective.model_dump(mode="json"),
        "replay": replay.share if replay else 0,
        "seed": work.recipe.seed,
        "base": work.base_identity,
    }


def _need_review(work: Work) -> None:
    """Stop where the recipe asks for a review that is not passed."""
    if work.recipe.data.review is not None:
        review.require(work.artifacts["dataset"].folder, work.store.root, work.recipe.data.review)


def _make_model(work: Work, out: Path) -> None:
    _need_review(work)
    from luthier.train.fit import Job, fit

    def on_step(step: events.Step, total: int) -> None:
        work.watch.progress(step.step, total, f"loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tokens/s")

    references = work.store.root / "references" / work.base_identity[:16]
    dataset = work.artifacts["dataset"].folder
    job = Job(work.recipe, _tuning(work), _plan(work), work.base, dataset, out, work.run.home, references)
    if job.plan["processes"] > 1:
        from luthier.train import launch

        launch.run(job, work.log, on_step)
    else:
        fit(job, work.tokenizer, work.log, on_step)


def _make_evaluation(work: Work, out: Path) -> None:
    from luthier.models.tuned import load_tuned

    folder, dtype = work.artifacts["model"].folder, _plan(work)["dtype"]
    model = load_tuned(work.base, folder, _tuning(work), dtype, scores=work.scores)
    evaluate_model(work, model, work.artifacts["model"].sha256, out)


def _make_verdict(work: Work, out: Path) -> None:
    def load(side: str) -> tuple[Any, str]:
        """For a second look: the model, and the name under which what it said is remembered."""
        from luthier.models.load import load_model
        from luthier.models.tuned import load_tuned

        if side == "base":
            return load_model(work.base, _plan(work)["dtype"], scores=work.scores), BASE
        tuned, dtype = work.artifacts["model"], _plan(work)["dtype"]
        return load_tuned(work.base, tuned.folder, _tuning(work), dtype, scores=work.scores), tuned.sha256

    make_verdict(work, out, load)


STAGES = (
    Stage("dataset", "reading and curating the rows", (), _dataset_settings, _make_dataset, 2),
    Stage("plan", "planning", ("dataset",), _plan_settings, _make_plan),
    Stage("baseline", "asking the base model", ("dataset",), _evaluate_settings, _make_baseline),
    Stage("model", "training", ("dataset",), _model_settings, _make_model),
    Stage("evaluation", "asking the tuned model", ("dataset", "model"), _evaluate_settings, _make_evaluation),
    Stage("verdict", "deciding", ("dataset", "model", "baseline", "evaluation"), gate_settings, _make_verdict, 2),
    Stage(
        "release",
        "merging and proving parity",
        ("dataset", "baseline", "model", "evaluation", "verdict"),  # the card states what was measured
        release_settings,
        make_release,
        2,
    ),
)
