"""The files that put a release into service, written from what was released."""

import json
from pathlib import Path
from typing import Any

from luthier.artifact import make_folder, write_text
from luthier.errors import RecipeError
from luthier.pipeline.serving import BASE
from luthier.pipeline.work import Work
from luthier.recipe import Qlora
from luthier.serve.deploy import DEPLOYMENTS, Deployment, readme
from luthier.serve.vllm import Adapter, Job

MODEL = "../model"
"""Where the released model lies, seen from the files."""


def write_deployment(work: Work, out: Path, tuning: Any) -> None:
    """Write the files that the recipe asks for into `out`/deploy, beside `out`/model.

    Raises:
        RecipeError: vLLM, which they start, cannot serve this release.
    """
    if not work.recipe.release.deploy:
        return
    folder, model = out / "deploy", out / "model"
    make_folder(folder)
    size = sum(path.stat().st_size for path in model.iterdir() if path.is_file())
    job = _job(work, model, tuning)
    if job.adapters:
        size += sum(path.stat().st_size for path in work.base.folder.glob("*.safetensors"))
    deployment = Deployment(work.recipe.name, job, work.recipe.data.system, size)
    for kind in work.recipe.release.deploy:
        name, write = DEPLOYMENTS[kind]
        write_text(folder / name, write(deployment))
    write_text(folder / "README.md", readme(deployment))


def _job(work: Work, model: Path, tuning: Any) -> Job:
    if work.scores:
        raise _cannot("a reward model gives scores, it does not answer")
    common: dict[str, Any] = {
        "context": work.base.context,
        "template": f"{MODEL}/chat_template.jinja" if (model / "chat_template.jinja").exists() else None,
        "trust_remote_code": work.base.trust_remote_code,
    }
    if (model / "config.json").exists():
        dtype = json.loads((model / "config.json").read_text(encoding="utf-8")).get("dtype", "auto")
        return Job(MODEL, work.recipe.name, str(dtype), **common)
    path = model / "adapter_config.json"
    if isinstance(tuning, Qlora):
        raise _cannot("the adapter was trained on a quantised base")
    if not path.exists():
        raise _cannot("it has no place for this kind of adapter")
    adapter = Adapter(MODEL, json.loads(path.read_text(encoding="utf-8")))
    if reason := adapter.refused():
        raise _cannot(reason)
    base, revision = (work.base.name, work.base.revision) if work.base.revision else (str(work.base.folder), None)
    dtype = work.artifacts["plan"].json("plan.json")["dtype"]
    beside = {work.recipe.name: adapter}
    return Job(base, BASE, dtype, adapters=beside, tokenizer=MODEL, revision=revision, **common)


def _cannot(reason: str) -> RecipeError:
    return RecipeError(
        f"vLLM cannot serve this release: {reason}",
        where="release.deploy",
        fix="release.merge=true where that can be, else release.deploy=[] and luthier serve",
    )
