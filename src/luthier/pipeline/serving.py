"""What is served: runs, folders and GGUF files by name, and whether each was judged as it lies there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luthier.artifact import MANIFEST, Artifact, digest, open_artifact
from luthier.errors import DataError, GateFailed, LuthierError, RecipeError
from luthier.models.base import Base, find_base
from luthier.pipeline.opened import Opened, open_base, open_tuned
from luthier.recipe import Model
from luthier.runs import Run, find_run

ANYWAY = "--unverified serves it all the same"
BASE = "base"
"""The name of the base model beside those tuned from it."""
SHARES = ("lora", "ia3")
"""Tunings whose adapters can lie side by side on one base."""


@dataclass(frozen=True)
class Target:
    """One model to serve.

    Attributes:
        name: what clients ask for.
        folder: its weights; a file where it is a GGUF.
        opened: how to load it; None for a GGUF.
        run: where it comes from, if that is known.
    """

    name: str
    folder: Path
    opened: Opened | None
    run: Run | None = None

    @property
    def system(self) -> str | None:
        """The system message that it was trained with."""
        return self.run.recipe.data.system if self.run else None

    @property
    def gguf(self) -> bool:
        """Whether llama.cpp has to serve it."""
        return self.folder.suffix == ".gguf"


def find_targets(given: Sequence[str], runs: Path, *, base: bool = False, unverified: bool = False) -> list[Target]:
    """What the command line names, each as `[NAME=]WHAT`: a run, a released folder, a model's folder, a GGUF file.

    Args:
        given: one or several.
        runs: the folder of the runs.
        base: the model they were tuned from is served, too.
        unverified: models without a passing verdict are served.

    Raises:
        RecipeError: there is nothing of that name, or two models have one.
        GateFailed: a model was not judged, judged otherwise, or changed since.
        DataError: a run has no model yet.
    """
    together = base or len(given) > 1
    targets = [_target(one, runs, together=together, unverified=unverified) for one in given]
    if base:
        first = next((target.run for target in targets if target.run), None)
        if first is None:
            raise RecipeError("--base needs a run, which knows its base", fix="luthier serve RUN --base")
        opened = open_base(first)
        targets.append(Target(BASE, opened.folder, opened, first))
    names = [target.name for target in targets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"two models would be called '{twice}'", fix="name one: luthier serve NAME=RUN")
    return targets


def _target(given: str, runs: Path, *, together: bool, unverified: bool) -> Target:
    name, _, what = given.rpartition("=")
    path = Path(what)
    if path.suffix == ".gguf" and path.is_file():
        target = Target(name or path.stem, path, None)
    elif path.is_dir() and not (path / "run.json").exists():
        target = _of_folder(name, path)
    elif what == "ukulele":
        opened = _whole(find_base(Model(base=what)))
        target = Target(name or what, opened.folder, opened)
    else:
        run = find_run(what, runs)
        if not unverified:
            require_verdict(run)
        opened = open_tuned(run, adapter=together)
        return Target(name or run.recipe.name, opened.folder, opened, run)
    if not unverified:
        require_release(path)
    return target


def _of_folder(name: str, path: Path) -> Target:
    """A released folder, or the folder of a model or an adapter."""
    folder = path / "model" if (path / "model").is_dir() else path
    if (folder / "adapter_config.json").exists():
        raise RecipeError("an adapter", where=str(folder), fix="serve the run it comes from, which knows its base")
    opened = _whole(find_base(Model(base=str(folder))))
    return Target(name or (folder.parent if folder.name == "model" else folder).resolve().name, folder, opened)


def _whole(base: Base) -> Opened:
    from luthier.models.load import training_dtype

    return Opened("model", base.folder, base, training_dtype("auto"), base.identity())


def require_verdict(run: Run) -> None:
    """Raise unless the gate said pass of exactly this model, and nothing was touched since.

    Raises:
        GateFailed: with the reason.
    """
    from luthier.evaluate.verdict import binds

    try:
        verdict, model = run.artifact("verdict"), run.artifact("model")
        made = [verdict, model, *([run.artifact("release")] if "release" in run.artifacts else [])]
        for artifact in made:
            _require_whole(artifact)
        body = verdict.json("verdict.json")
        binds(body, {"model": model.sha256, "base": find_base(run.recipe.model, run.home).identity()})
        if made[2:] and made[2].parents.get("verdict") != verdict.sha256:
            raise GateFailed("the release was made on another verdict", where=run.name, fix=f"luthier run {run.folder}")
    except LuthierError as error:
        raise GateFailed(error.what, where=error.where or run.name, fix=f"{error.fix}; {ANYWAY}") from error


def require_release(path: Path) -> None:
    """Raise unless a file or folder is part of a release, whole, with a verdict that says pass.

    Raises:
        GateFailed: with the reason.
    """
    from luthier.evaluate.verdict import binds

    home = next((p for p in (path, *path.resolve().parents) if (p / MANIFEST).is_file()), None)
    if home is None:
        raise GateFailed("no verdict says what this model is worth", where=str(path), fix=f"serve a run; {ANYWAY}")
    try:
        release = open_artifact(home)
        _require_whole(release)
        if "verdict.json" not in release.files:
            raise GateFailed("no verdict is part of it", where=str(home), fix="serve the run it comes from")
        binds(release.json("verdict.json"), {"model": release.parents.get("model", "")})
    except LuthierError as error:
        raise GateFailed(error.what, where=error.where or str(path), fix=f"{error.fix}; {ANYWAY}") from error


def _require_whole(artifact: Artifact) -> None:
    artifact.verify()
    if digest(dict(artifact.files)) != artifact.sha256:
        raise DataError("its list of files was changed", where=str(artifact.folder), fix="make it anew")


def load_served(targets: Sequence[Target]) -> list[Any]:
    """The models in memory, ready to be asked; adapters of one base share its weights.

    Raises:
        DataError: a model cannot be loaded, or has no chat template and no other way to end an answer.
    """
    from luthier.models.load import quiet

    quiet()
    shared: dict[str, Any] = {}
    served = []
    # Adapters first: a base served beside them is then there already.
    for target in sorted(targets, key=lambda one: one.name == BASE):
        model, active = _load(target, shared)
        served.append(_served(target, model, active))
    return served


def _load(target: Target, shared: dict[str, Any]) -> tuple[Any, Any]:
    """The weights of a target, and what makes it the one that answers where others share them."""
    opened = target.opened
    assert opened is not None
    key = f"{opened.start.identity()} {opened.dtype}"
    if target.name == BASE and key in shared:
        from luthier.models.tuning import untuned

        return shared[key], partial(untuned, shared[key])
    if opened.tuning is None or opened.tuning.kind not in SHARES or opened.start.new_tokens:
        return opened.load(), None
    name = f"adapter-{digest(opened.identity)[:12]}"
    from luthier.models.adapters import add_adapter, using

    if key in shared:
        add_adapter(shared[key], opened.folder, name)
    else:
        shared[key] = opened.load()
        name = "default"
    return shared[key], partial(using, shared[key], name)


def _served(target: Target, model: Any, active: Any) -> Any:
    from luthier.serve.batching import Served

    opened = target.opened
    assert opened is not None
    tokenizer = opened.tokenizer()
    more: dict[str, Any] = {"active": active} if active else {}
    return Served(
        target.name,
        model,
        tokenizer,
        opened.stop(tokenizer),
        opened.start.context,
        fingerprint=f"luthier-{digest(opened.identity)[:12]}",
        system=target.system,
        base=BASE if target.run and target.name != BASE else None,
        **more,
    )
