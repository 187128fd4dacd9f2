"""Training on several processes of this machine, started through torchrun's launcher and watched from here.

Each process runs `worker`: it joins the group, reads the job and calls `fit`. Process 0 writes the run's log, which is
followed here; an error of any process comes back as what it was there.
"""

import json
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from pydantic import TypeAdapter

from luthier import errors, events
from luthier.errors import Interrupted, LuthierError, TrainingStopped
from luthier.models.base import Base
from luthier.models.load import quiet
from luthier.recipe import Tuning, build_recipe
from luthier.train.fit import Job, fit
from luthier.train.loop import Outcome
from luthier.train.parallel import join

POLL = 0.3
"""Seconds between looks at the log."""


def run(job: Job, log: events.Log, on_step: Callable[[events.Step, int], None] = lambda *_: None) -> Outcome:
    """Train the job on `plan["processes"]` processes.

    Raises:
        LuthierError: what the processes raised.
        TrainingStopped: a process died without saying why.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with TemporaryDirectory() as folder:
        spec = Path(folder) / "job.json"
        spec.write_text(json.dumps(_to_json(job) | {"log": str(log.path.resolve())}), encoding="utf-8")
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=job.plan["processes"],
            run_id=spec.parent.name,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            max_restarts=0,
            monitor_interval=POLL,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        with _followed(log, on_step, Path(folder) / "steps"):
            try:
                elastic_launch(config, worker)(str(spec))
            except SignalException as error:
                raise Interrupted("stopped; the state is saved", fix="run the same command to go on") from error
            except ChildFailedError as error:
                raise _reported(Path(folder)) from error
        return Outcome(**json.loads((Path(folder) / "outcome.json").read_text()))


def _reported(folder: Path) -> LuthierError:
    """The error that a process wrote down; one that waits for a process that died says nothing of use."""
    for path in sorted(folder.glob("error-*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        kind: type[LuthierError] = getattr(errors, content.pop("kind"))
        return kind(content["what"], where=content["where"], fix=content["fix"])
    return TrainingStopped(
        "a training process died without saying why; too little memory is the usual reason",
        where="training",
        fix="run with training.devices=1 to see its own message, or with smaller training.micro_batch_tokens",
    )


@contextmanager
def _followed(log: events.Log, on_step: Callable[[events.Step, int], None], steps: Path) -> Any:
    """Tell `on_step` and the log's listener what another process appends to the log."""
    seen = sum(1 for _ in events.read(log.path))
    done = threading.Event()

    def look() -> None:
        nonlocal seen
        fresh = [event for _, event in events.read(log.path)][seen:]
        seen += len(fresh)
        for event in fresh:
            log.listen(event)
            if isinstance(event, events.Step) and steps.exists():
                on_step(event, int(steps.read_text()))

    def follow() -> None:
        while not done.wait(POLL):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()


def _to_json(job: Job) -> dict[str, Any]:
    base = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(job.base).items()}
    return {
        "recipe": job.recipe.model_dump(mode="json", exclude_unset=True),
        "tuning": job.tuning.model_dump(mode="json", exclude_unset=True),
        "plan": dict(job.plan),
        "base": base,
        "dataset": str(job.dataset.resolve()),
        "out": str(job.out.resolve()),
        "home": str(job.home.resolve()),
        "references": None if job.references is None else str(job.references.resolve()),
    }


def _from_json(content: dict[str, Any]) -> Job:
    base = content["base"]
    template = base.pop("chat_template")
    tokens = tuple(base.pop("new_tokens"))
    return Job(
        build_recipe(content["recipe"]),
        TypeAdapter(Tuning).validate_python(content["tuning"]),
        content["plan"],
        Base(
            **base | {"folder": Path(base["folder"])},
            new_tokens=tokens,
            chat_template=Path(template) if template else None,
        ),
        Path(content["dataset"]),
        Path(content["out"]),
        Path(content["home"]),
        Path(content["references"]) if content["references"] else None,
    )


def worker(path: str) -> None:
    """One process of the run; what it cannot do is written beside the job."""
    quiet()
    spec = Path(path)
    content = json.loads(spec.read_text(encoding="utf-8"))
    log = content.pop("log")
    parallel = join(content["plan"]["parallel"])
    job = _from_json(content)

    def told(_: events.Step, steps: int) -> None:
        (spec.parent / "steps").write_text(str(steps))

    try:
        written = events.Log(Path(log) if parallel.first else Path(os.devnull))
        outcome = fit(job, job.base.tokenizer(), written, told, parallel)
        if parallel.first:
            (spec.parent / "outcome.json").write_text(json.dumps(asdict(outcome)))
    except LuthierError as error:
        said = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        (spec.parent / f"error-{parallel.rank}.json").write_text(json.dumps(said), encoding="utf-8")
        raise
    finally:
        dist.destroy_process_group()
