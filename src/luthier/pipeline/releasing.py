"""The stage `release`: the job for the room that makes it, and the card."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from luthier import events
from luthier.artifact import write_text
from luthier.errors import RecipeError
from luthier.evaluate.items import Item, Task
from luthier.evaluate.marking import mark
from luthier.evaluate.scorers import SCORERS
from luthier.evaluate.tasks import validation_task
from luthier.pipeline.deployment import write_deployment
from luthier.pipeline.judging import read_examples
from luthier.pipeline.servers import servers
from luthier.pipeline.service import need_packages
from luthier.pipeline.work import Work
from luthier.recipe import MERGES, Tuning
from luthier.text import load_rows
from luthier.types import Example, Metric

PARITY_PROMPTS = 24
ROOM = 1.25
"""An answer may be this much longer than the longest expected one, unless the recipe says how long."""


def release_settings(work: Work) -> dict[str, Any]:
    """What a release depends on besides what it is made from."""
    release = work.recipe.release.model_dump(mode="json")
    return {"release": release, "base": work.base_identity, "name": work.recipe.name}


def check_release(work: Work) -> None:
    """Look for what the release needs before anything is trained.

    Raises:
        Missing: a package or a program.
        RecipeError: it cannot be made of such a tuning.
    """
    asked = work.recipe.release
    if asked.served:
        need_packages()
    if asked.gguf or asked.gguf_adapter:
        if work.scores:
            fix = "leave release.gguf and release.gguf_adapter out"
            raise RecipeError("llama.cpp does not run reward models with one score", where="release.gguf", fix=fix)
        from luthier.release.make import check_wanted

        check_wanted(asked, work.recipe.tuning, work.base, work.run.home)


def merges(work: Work, tuning: Tuning) -> bool:
    """Whether the release is one whole model: where that can be, unless the recipe says otherwise."""
    asked = work.recipe.release.merge
    return tuning.kind in MERGES if asked is None else asked


def make_release(work: Work, out: Path) -> None:
    """Make the release in `out`, prove it, and write its card."""
    from luthier.release import make

    make.clear(out)  # what an interrupted attempt left
    plan = work.artifacts["plan"].json("plan.json")
    tuning: Tuning = TypeAdapter(Tuning).validate_python(plan["tuning"])
    if work.scores:
        table = _release_scores(work, tuning, plan["dtype"], out)
        write_text(out / "parity.json", json.dumps(table, indent=1) + "\n")
        write_card(work, out, tuning, table)
        return
    examples = _examples(work)
    probes = _probes(work, examples)
    made = make.make_release(_job(work, tuning, plan["dtype"], examples, probes), out, merges=merges(work, tuning))
    for note in made.notes:
        work.log.write(events.Warned(note))
    if made.merged:
        write_text(out / "merge.json", json.dumps(made.merged, indent=1) + "\n")
    table = made.table.to_json() | {"notes": list(made.notes), "not_asked": dict(made.not_asked)}
    write_text(out / "parity.json", json.dumps(table, indent=1) + "\n")
    write_card(work, out, tuning, table)


def _job(work: Work, tuning: Tuning, dtype: Any, examples: Sequence[Example], probes: Sequence[Any]) -> Any:
    from luthier.release.gguf.write import Lineage
    from luthier.release.make import Job

    hashes = {"run": work.run.name, "model_sha256": work.artifacts["model"].sha256, "base_sha256": work.base_identity}
    lineage = Lineage(work.recipe.name, shown_base(work), work.base.revision, work.base.licence, hashes)
    return Job(
        asked=work.recipe.release,
        base=work.base,
        tuned=work.artifacts["model"].folder,
        tuning=tuning,
        tokenizer=work.tokenizer,
        trained_as=dtype,
        probes=probes,
        most=_room(work, [e.messages[-1].content for e in examples]),
        lineage=lineage,
        score=_scored(work, examples),
        progress=work.watch.progress,
        home=work.run.home,
        servers=servers(work, tuning, dtype) if examples else (),
    )


def _examples(work: Work) -> list[Example]:
    """Validation conversations whose prompts are read from their text as they were trained."""
    from luthier.release.parity.witness import probe, read_as_trained

    found = [e for e in read_examples(work.artifacts["dataset"].path("validation.jsonl")) if e.messages]
    fits = [e for e in found if read_as_trained(probe(e.messages[:-1], work.tokenizer), work.tokenizer)]
    return (fits or found)[:PARITY_PROMPTS]


def _probes(work: Work, examples: Sequence[Example]) -> list[Any]:
    from luthier.release.parity import Probe
    from luthier.release.parity.witness import probe

    if examples:
        return [probe(e.messages[:-1], work.tokenizer) for e in examples]
    rows = load_rows(work.artifacts["dataset"].path("validation.safetensors"))  # plain text: half a row is the prompt
    firsts = [rows.row(i).ids for i in range(min(len(rows), PARITY_PROMPTS))]
    return [Probe(None, None, ids[: max(1, len(ids) // 2)]) for ids in firsts]


def _room(work: Work, expected: list[str]) -> int:
    """Tokens that an answer may have."""
    longest = max((len(work.tokenizer.encode(text, add_special_tokens=False)) for text in expected), default=1)
    return work.recipe.evaluate.max_new_tokens or int(ROOM * longest) + 4


def _scored(work: Work, examples: Sequence[Example]) -> Callable[[Sequence[str]], Mapping[str, float]]:
    """The run's own metrics on the answers to the probes, those that a scorer of texts gives."""
    names = [name for name in work.tasks(bool(examples)) if name in SCORERS] if examples else []
    tasks = [validation_task(name, examples, len(examples)) for name in names]

    def score(texts: Sequence[str]) -> dict[str, float]:
        return {task.name: _mean(task, task.items, texts) for task in tasks}

    return score


def _mean(task: Task, items: Sequence[Item], texts: Sequence[str]) -> float:
    said = [[{"text": text, "tokens": 0, "stopped": True}] for text in texts]
    answers = mark(replace(task, items=tuple(items)), items, said)
    return sum(answer.score for answer in answers) / max(1, len(answers))


def _release_scores(work: Work, tuning: Tuning, dtype: Any, out: Path) -> dict[str, Any]:
    """A reward model: merged, loaded again, and its scores compared."""
    from luthier.models.base import Base
    from luthier.models.load import load_model
    from luthier.models.tuned import load_tuned, save_tuned
    from luthier.release.merge import as_trained, merge
    from luthier.release.parity.scores import compare_scores

    tuned = work.artifacts["model"].folder
    if not merges(work, tuning):
        save_tuned(load_tuned(work.base, tuned, tuning, dtype, scores=True), work.tokenizer, work.base, out / "model")
        return {}
    asked = work.recipe.release.dtype
    given = (work.base, tuned, tuning, work.tokenizer, out / "model")
    made = merge(*given, trained_as=dtype, saved_as=None if asked == "auto" else asked, scores=True)
    write_text(out / "merge.json", json.dumps(made.to_json(), indent=1) + "\n")
    if (scale := tuned / "normalisation.json").exists():  # a reward model's own
        shutil.copyfile(scale, out / "model" / scale.name)
    base = Base(work.recipe.name, out / "model", None, work.base.trust_remote_code)
    rows = load_rows(work.artifacts["dataset"].path("validation.safetensors"))
    trained = as_trained(work.base, tuned, tuning, dtype, scores=True)
    released = load_model(base, made.dtype, scores=True)
    found = compare_scores(trained, released, [rows.row(i).ids for i in range(len(rows))], made.dtype)
    found.require()
    return found.to_json()


def _origin(work: Work) -> Any:
    """Where the model comes from, for its card."""
    from luthier.release.origin import Origin

    base, asked = work.base, work.recipe.evaluate
    suites = {
        "what it forgot": work.retention,
        "safety": asked.safety,
        "the following of instructions": asked.instructions,
    }
    named = ("dataset", "model", "baseline", "evaluation", "verdict")
    return Origin(
        shown_base(work),
        base.revision,
        base.licence,
        work.artifacts["dataset"].json("facts.json"),
        {source.path: source.licence for source in work.recipe.data.sources},
        {"base": work.base_identity, **{name: work.artifacts[name].sha256 for name in named}},
        base.context,
        work.recipe.data.system,
        [what for what, given in suites.items() if not given],
    )


def shown_base(work: Work) -> str:
    """The base's name as others may read it: a hub id, or a folder's own name without where it lay."""
    name = work.base.name
    return name if work.base.revision or not (work.run.home / name).is_dir() else (work.run.home / name).resolve().name


def write_card(work: Work, out: Path, tuning: Tuning, parity: Mapping[str, Any]) -> None:
    """The model card, every number copied from the run's artifacts; the verdict and deploy files beside it."""
    from luthier.release.card import card

    before, after = (
        {k: Metric(**v) for k, v in work.artifacts[stage].json("metrics.json").items()}
        for stage in ("baseline", "evaluation")
    )
    text = card(
        work.recipe.name,
        _origin(work),
        method=work.artifacts["plan"].json("plan.json")["method"],
        rows=work.artifacts["dataset"].json("facts.json")["train"]["rows"],
        before=before,
        after=after,
        rules=work.artifacts["verdict"].json("verdict.json")["rules"],
        parity=parity,
    )
    write_text(out / "model" / "README.md", text)
    # What is served elsewhere brings the verdict along that it was released on.
    write_text(out / "verdict.json", work.artifacts["verdict"].path("verdict.json").read_text(encoding="utf-8"))
    write_deployment(work, out, tuning)
