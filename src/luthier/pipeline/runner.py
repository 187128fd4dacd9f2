"""Running a recipe: which stages are stale, making them in order, and what is left behind when one fails."""

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from filelock import FileLock

from luthier import events
from luthier.artifact import Artifact, Store, key_of, make_folder
from luthier.errors import GateFailed, Interrupted, LuthierError, RecipeError
from luthier.pipeline.judging import note_promoted
from luthier.pipeline.releasing import check_release
from luthier.pipeline.rewards import reward_inputs
from luthier.pipeline.stages import STAGES, Stage
from luthier.pipeline.work import Silent, Watcher, Work
from luthier.recipe import build_recipe, load_recipe
from luthier.runs import STORE, Run, create_run, open_run
from luthier.types import Metric

__all__ = ["Watcher", "default_recipe", "open_work", "plan_stages", "require_pass", "run_recipe", "stale_stages"]
_PACKAGES = (
    "luthier",
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "accelerate",
    "numpy",
    "bitsandbytes",
)


def default_recipe() -> Path:
    """The embedded recipe that a run without one takes."""
    return Path(str(files("luthier.pipeline") / "default" / "recipe.yaml"))


def open_work(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, root: Path, watch: Watcher | None = None
) -> Work:
    """The work on a recipe file, a run folder or a recipe given as a mapping; its run folder is made if need be."""
    run = _find_or_create(recipe, overrides, root)
    watch = watch or Silent()

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Warned):
            watch.warn(event.message)

    return Work(run, run.log(listen), watch, {})


def _find_or_create(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str], root: Path) -> Run:
    if isinstance(recipe, Mapping):
        built = build_recipe(recipe, overrides)
        return create_run(built, root, home=Path.cwd(), given=yaml.safe_dump(dict(recipe), sort_keys=False))
    path = Path(recipe)
    if (path / "run.json").exists() and not overrides:
        return open_run(path)
    if path.is_dir():
        earlier = open_run(path)
        changed = load_recipe(path / "recipe.yaml", overrides)
        given = (path / "recipe.given.yaml").read_text(encoding="utf-8")
        return create_run(changed, root, home=earlier.home, given=given, overrides=overrides)
    loaded = load_recipe(path, overrides)
    return create_run(loaded, root, home=path.parent, given=path.read_text(encoding="utf-8"), overrides=overrides)


def plan_stages(until: str) -> list[Stage]:
    """The stages up to and including `until`, in order; a pure function of the table.

    Raises:
        RecipeError: there is no such stage.
    """
    names = [stage.name for stage in STAGES]
    if until not in names:
        raise RecipeError(f"there is no stage '{until}'; stages: {', '.join(names)}", fix="choose one of them")
    wanted = {until}
    for stage in reversed(STAGES):
        if stage.name in wanted:
            wanted |= set(stage.parents)
    if wanted & {"baseline", "model", "evaluation"}:
        wanted.add("plan")  # its decisions are settings of theirs
    return [stage for stage in STAGES if stage.name in wanted]


def run_recipe(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    root: Path,
    until: str = "release",
    watch: Watcher | None = None,
) -> Run:
    """Make every stale stage up to `until`, and the report.

    Raises:
        GateFailed: the verdict is not "pass" and the release was asked for; everything before it is there.
        LuthierError: a stage failed; the run is marked so, and running again goes on from there.
    """
    work = open_work(recipe, overrides, root=root, watch=watch)
    with work.run.only_here():
        return _run(work, plan_stages(until))


def stale_stages(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, root: Path
) -> dict[str, str]:
    """What a run would do, stage by stage, without doing any of it.

    Returns:
        By stage: `up to date`, `would run`, or `depends on the stages before` where its inputs are still to be made.
    """
    with TemporaryDirectory() as folder:  # the run's own folder is a trace too; the artifacts are those of `root`
        work = open_work(recipe, overrides, root=Path(folder))
        work.store = Store(root / STORE)
        states: dict[str, str] = {}
        for stage in STAGES:
            needed = {*stage.parents, *(["plan"] if stage.name in ("baseline", "model", "evaluation") else [])}
            if not needed <= work.artifacts.keys():
                states[stage.name] = "depends on the stages before"
            elif found := _find(work, stage):
                work.artifacts[stage.name], states[stage.name] = found, "up to date"
            else:
                states[stage.name] = "would run"
    return states


def _run(work: Work, stages: list[Stage]) -> Run:
    work.log.write(events.RunStarted("run", [stage.name for stage in stages]))
    try:
        _check_early(work)
        work.run.write_lock(_lock(work))
        for stage in stages:
            if stage.name == "release":
                require_pass(work.run)
            if _find(work, stage) is None:
                from luthier.models.load import quiet  # late: a run with nothing to do needs no torch

                quiet()
            _bring(work, stage)
    except LuthierError as error:
        error.run = work.run
        _end(work, "interrupted" if isinstance(error, Interrupted) else "failed")
        raise
    except KeyboardInterrupt as error:
        _end(work, "interrupted")
        stopped = Interrupted("stopped; the finished stages are kept", fix="run the same command to go on")
        stopped.run = work.run
        raise stopped from error
    _end(work, "done")
    return work.run


def _check_early(work: Work) -> None:
    """What the last stages need is looked for before an hour of training, not after: base, tasks, suites, rules."""
    from luthier.evaluate.gate import rules_of
    from luthier.evaluate.items import Task
    from luthier.evaluate.scorers import SCORERS
    from luthier.evaluate.tasks import own_tasks
    from luthier.pipeline.judging import suites_of

    work.base  # noqa: B018 - finding it is the check
    reward_inputs(work.recipe, work.run.home)
    names = work.tasks(conversations=True)
    # The rows are not split yet, so a scorer stands for its task; files and suites are read whole.
    tasks = [Task(name, (), scoring=f"generate {name}") for name in names if name in SCORERS]
    tasks += own_tasks([name for name in names if name not in SCORERS], [], work.run.home, 1)
    rules_of(work.recipe.gate, [*tasks, *suites_of(work)], pairs=work.pairs, scores=work.scores)
    check_release(work)


def _key(work: Work, stage: Stage) -> tuple[str, dict[str, Any], dict[str, str]]:
    settings = {**stage.settings(work), "version": stage.version}
    parents = {name: work.artifacts[name].sha256 for name in stage.parents}
    return key_of(stage.name, settings, parents), settings, parents


def _find(work: Work, stage: Stage) -> Artifact | None:
    found = work.store.find(stage.name, _key(work, stage)[0])
    if found is not None:
        found.verify()
    return found


def _bring(work: Work, stage: Stage) -> None:
    """Find the stage's artifact or make it, and note it in the run."""
    key, settings, parents = _key(work, stage)
    store, started = work.store, time.monotonic()
    make_folder(store.root)
    # Two runs may want the same artifact at the same time, the answers of one base for example: the second waits.
    with FileLock(store.root / f".{stage.name}-{key[:16]}.lock"):
        found = _find(work, stage)
        if found is None:
            work.log.write(events.StageStarted(stage.name))
            work.watch.stage(stage.name, stage.title)
            try:
                stage.make(work, store.partial(stage.name, key))
            except LuthierError as error:
                work.log.write(events.StageFailed(stage.name, str(error)))
                raise
            made, reused = store.finish(stage.name, key, parents, settings), False
        else:
            made, reused = found, True
    seconds = round(time.monotonic() - started, 3)
    work.artifacts[stage.name] = made
    work.run.artifacts[stage.name] = made.folder
    _link(work.run.folder / stage.name, made.folder)
    if "metrics.json" in made.files:
        prefix = "before/" if stage.name == "baseline" else ""
        metrics = made.json("metrics.json")
        work.run.metrics |= {prefix + name: Metric(**value) for name, value in metrics.items()}
    if stage.name == "release":
        note_promoted(work)
    work.run.save()
    work.log.write(events.StageFinished(stage.name, made.folder.name, seconds, reused))
    work.watch.done(stage.name, seconds, reused=reused)


def _link(link: Path, target: Path) -> None:
    """A link in the run folder, for people; where the file system has none, `run.json` says the same."""
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / target.parent.name / target.name, target_is_directory=True)
    except OSError:
        return


def require_pass(run: Run) -> None:
    """Raise unless the gate lets the tuned model through.

    Raises:
        GateFailed: with the rules that do not hold.
    """
    verdict = run.artifact("verdict").json("verdict.json")
    undecided = verdict["verdict"] == "inconclusive" and run.recipe.gate.accept_inconclusive
    if verdict["verdict"] == "pass" or undecided:
        return
    named = [rule for rule in verdict["rules"] if rule["verdict"] != "pass"]
    error = GateFailed(
        f"the gate says {verdict['verdict']}: " + "; ".join(f"{rule['rule']}: {rule['reason']}" for rule in named),
        where=run.name,
        fix=f"look at {run.folder / 'report.html'}; nothing was released",
    )
    error.run = run
    raise error


def _end(work: Work, status: str) -> None:
    from luthier.pipeline.report import write_report

    work.run.status = status
    work.run.save()
    work.log.write(events.RunFinished(status))
    write_report(work.run)


def _lock(work: Work) -> dict[str, Any]:
    """What the results depend on, as it is now."""
    return {
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "inputs": work.inputs,
        "base": {"name": work.base.name, "revision": work.base.revision, "sha256": work.base_identity},
        "seed": work.recipe.seed,
        "hardware": str(work.hardware),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
