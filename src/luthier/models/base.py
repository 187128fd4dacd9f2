"""Where the base model lies: the bundled one, a folder, or the hub. Imports no torch."""

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.artifact import digest, file_digest
from luthier.errors import DataError, Missing, RecipeError
from luthier.recipe import Model, PlainTemplate
from luthier.runs import run_folder
from luthier.text.plain import plain_template
from luthier.text.tokenizer import Tokenizer, load_tokenizer

UKULELE = "ukulele"
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt", "*.py"]
_FETCHED = [*_WANTED, "README.md"]
"""The card tells the licence; it is no part of the model's identity."""
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk, with what the recipe adds to its vocabulary and template.

    `name` is as the recipe gives it; `revision` the commit for one from the hub.
    """

    name: str
    folder: Path
    revision: str | None
    trust_remote_code: bool
    new_tokens: tuple[str, ...] = ()
    chat_template: Path | PlainTemplate | None = None
    end_token: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The content of its config.json.

        Raises:
            DataError: it is damaged.
        """
        return _read(self.folder / "config.json")

    @property
    def context(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        config = self.config.get("text_config", self.config)
        return int(config.get("max_position_embeddings") or config.get("n_positions") or 2048)

    @property
    def stop_ids(self) -> list[int]:
        """The ids that end an answer, by its generation config; else by its config, as transformers has it."""
        path = self.folder / "generation_config.json"
        config = self.config.get("text_config", {}) | self.config
        configured = (_read(path) if path.exists() else config).get("eos_token_id")
        return [configured] if isinstance(configured, int) else list(configured or ())

    @property
    def licence(self) -> str | None:
        """What the model's own card says in its head, as the hub has it; None where it says nothing."""
        card = self.folder / "README.md"
        if not card.is_file():
            return None
        head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        found = re.search(r"^license:\s*([\w.+-]+)\s*$", head.group(1), re.MULTILINE) if head else None
        return found.group(1) if found else None

    def identity(self) -> str:
        """A hash that changes with any byte of weights, config or tokenizer; the commit stands for a hub model."""
        added: dict[str, Any] = {"tokens": self.new_tokens} if self.new_tokens else {}
        if self.end_token:
            added["end"] = self.end_token
        if isinstance(self.chat_template, PlainTemplate):
            added["template"] = self.chat_template.model_dump()
        elif self.chat_template:
            added["template"] = file_digest(self.chat_template)
        if self.revision:
            return digest({"name": self.name, "revision": self.revision} | added)
        found = sorted(p for pattern in _WANTED for p in self.folder.glob(pattern) if p.name not in _NOT_THE_MODEL)
        return digest({p.name: file_digest(p) for p in found} | added)

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, with what the recipe adds.

        Raises:
            DataError: there is no fast tokenizer.
            RecipeError: the end token is not in the vocabulary.
        """
        found = load_tokenizer(self.folder, trust_remote_code=self.trust_remote_code)
        if self.new_tokens:
            found.add_special_tokens({"additional_special_tokens": list(self.new_tokens)}, False)
        if isinstance(self.chat_template, PlainTemplate):
            found.chat_template = plain_template(found, **self.chat_template.model_dump())
        elif self.chat_template:
            found.chat_template = self.chat_template.read_text(encoding="utf-8")
        if self.end_token:
            if self.end_token not in found.get_vocab():
                raise RecipeError(
                    f"'{self.end_token}' is not in the vocabulary",
                    where="model.end_token",
                    fix="add it to model.new_tokens",
                )
            found.eos_token = self.end_token
        return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"damaged: {error}", where=str(path), fix="fetch the model again, whole") from error
    if not isinstance(content, dict):
        raise DataError("damaged: not a JSON object", where=str(path), fix="fetch the model again, whole")
    return content


_NOT_THE_MODEL = {"scores.json", "skills.jsonl", "replay.jsonl"}


def ukulele_file(name: str) -> Path:
    """A file that comes with the bundled base: `skills.jsonl`, `replay.jsonl`, ..."""
    return Path(str(files("luthier.models") / UKULELE / name))


def find_base(model: Model, home: Path = Path()) -> Base:
    """The base model of a recipe, downloaded from the hub if need be.

    Args:
        model: the section of the recipe; its base may be the folder of a run, for the model that this released.
        home: the recipe's folder, where a relative path is looked for first.

    Raises:
        RecipeError: there is no such folder or hub model.
        Missing: the hub cannot be reached.
        DataError: the folder holds no model in safetensors, or a damaged one.
    """
    if model.base == UKULELE:
        folder, revision = ukulele_file(""), None
    elif here := next((p for p in (home / model.base, Path(model.base)) if p.is_dir()), None):
        folder, revision = released(here), None
    elif run := run_folder(home / model.base) or run_folder(Path(model.base)):
        folder, revision = released(run), None
    elif model.base.count("/") == 1 and not model.base.startswith((".", "/", "~")):
        folder, revision = _download(model.base, model.revision)
    else:
        raise RecipeError(
            f"there is no folder '{model.base}'",
            where="model.base",
            fix="give 'ukulele', the folder of a model, or a hub id such as Qwen/Qwen3-0.6B",
        )
    if not (folder / "config.json").exists() or not any(folder.glob(_WEIGHTS)):
        raise DataError(
            "no model in transformers' format with safetensors weights",
            where=str(folder),
            fix="the folder needs config.json and *.safetensors; weights are never loaded from pickle files",
        )
    tokens, template = tuple(model.new_tokens), _template(model.chat_template, home)
    found = Base(model.base, folder, revision, model.trust_remote_code, tokens, template, model.end_token)
    _ = found.context, found.stop_ids  # damage is named here, before the libraries stumble over it
    return found


def labels_of(base: Base, *, where: str) -> list[str]:
    """The labels of a sequence classifier, in the order of its logits.

    Raises:
        DataError: its config cannot be read.
    """
    from transformers import AutoConfig  # it fills in what a config leaves to defaults

    try:
        config = AutoConfig.from_pretrained(str(base.folder), trust_remote_code=base.trust_remote_code)
    except (OSError, ValueError) as error:
        raise DataError(f"'{base.name}' cannot be read: {error}", where=where, fix="fetch the model again") from error
    return [str(label) for _, label in sorted(config.id2label.items())]


def released(folder: Path) -> Path:
    """The folder of the model that a run released, for the folder of a run; else the folder itself.

    Raises:
        DataError: the run has released none.
    """
    if not (folder / "run.json").exists():
        return folder
    found = folder / "release" / "model"
    if not (found / "config.json").exists():
        raise DataError("the run has released no whole model", where=str(folder), fix=f"luthier run {folder}")
    return found


def _template(given: str | PlainTemplate | None, home: Path) -> Path | PlainTemplate | None:
    if not isinstance(given, str):
        return given
    found = next((path for path in (home / given, Path(given)) if path.is_file()), None)
    if found is None:
        raise RecipeError(f"there is no file '{given}'", where="model.chat_template", fix="check the path")
    return found


def _download(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_FETCHED))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at {revision}" if revision else ""
        raise RecipeError(
            f"the hub has no model '{name}'{at}, or it is gated",
            where="model.base",
            fix="check the name; hf auth login",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Missing(
            f"the hub cannot be reached and '{name}' is not on this machine yet",
            where="model.base",
            fix="connect and run again, or give the folder of a model",
        ) from error
    return folder, folder.name
