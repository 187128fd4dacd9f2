"""From a tuned model to one that any server loads: merged tensor by tensor in float32, cast once, written in shards.

Memory: the libraries, the adapter, and a few copies of the largest tensor in float32. It does not grow with the model.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.artifact import disk_error, make_folder, write_text
from luthier.errors import ParityFailed, RecipeError
from luthier.models.base import Base
from luthier.models.load import DTYPES, DtypeName
from luthier.models.tuned import adapted, load_tuned
from luthier.recipe import MERGES, Qlora, Tuning
from luthier.release.trained import Trained, requantised
from luthier.release.weights import SHARD, Planned, ShardWriter, give_back
from luthier.text.tokenizer import Tokenizer, stop_ids

DELTA_BOUND = 0.25
"""Largest error of what training changed that `auto` accepts: |cast(W') - W'| / |W' - W|, Frobenius norms over all
changed tensors. Above it, the released weights stay in float32."""
BLOCK = 2**21
"""Numbers that are measured and written at a time."""
TEXT_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model",
)  # fmt: skip
"""What a tokenizer is made of on disk."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What was merged. `delta_error`: how much of what training changed was lost in the cast, of 1; of no tensor, 0."""

    dtype: DtypeName
    tensors: int
    changed: int
    delta_error: float
    worst: str | None
    worst_error: float
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {**asdict(self), "bound": DELTA_BOUND}


def merge(
    base: Base,
    tuned: Path,
    tuning: Tuning,
    tokenizer: Tokenizer,
    out: Path,
    *,
    trained_as: DtypeName,
    saved_as: DtypeName | None = None,
    scores: bool = False,
    largest: int = SHARD,
) -> Merged:
    """Write the merged model to `out`.

    The sum W + (alpha / rank) B A is made in float32. A quantised base is dequantised first, layer by layer: merging
    into the original weights would give another model than the one that was trained, since the adapter has learned
    beside the rounded ones.

    Args:
        base: the base model.
        tuned: the folder of the tuned model.
        tuning: how it was tuned.
        tokenizer: the one it was trained with.
        out: the folder to write.
        trained_as: number format of the weights in training.
        saved_as: that of the released ones. When not given, that of training if what training changed survives it.
        scores: whether it is a reward model.
        largest: bytes of a file, unless one tensor is larger.

    Raises:
        Missing: the disk is full or cannot be written.
        ParityFailed: the merged model is the base.
        RecipeError: the tuning is of a kind that cannot be merged.
    """
    if tuning.kind not in MERGES:
        raise RecipeError(cannot_merge(tuning.kind), where="release.merge", fix="release.merge=false")
    trained = Trained(base, tuned, tuning, trained_as, scores=scores)
    merged = _write(trained, out, saved_as or trained_as, largest)
    if merged.delta_error > DELTA_BOUND:
        share = f"{merged.delta_error:.0%} of what training changed would be lost in {merged.dtype}"
        if saved_as is None:
            merged = _write(trained, out, "float32", largest, f"{share}, so the weights are released in float32")
        else:
            fix = "release.dtype=float32 keeps it, release.dtype=auto decides by this number"
            merged = Merged(**{**asdict(merged), "note": f"{share.replace('would be', 'is')}; {fix}"})
    _write_config(trained, out, merged.dtype)
    _write_generation_config(trained, tokenizer, out)
    write_tokenizer(base, tuned, out)
    return merged


def _write(trained: Trained, out: Path, saved_as: DtypeName, largest: int, note: str | None = None) -> Merged:
    """All tensors, in the order of the base's files."""
    dtype = DTYPES[saved_as]
    planned = [Planned(n, trained.shape(n), dtype if trained.floating(n) else trained.stored(n)) for n in trained.names]
    writer = ShardWriter(out, planned, largest)
    lost, moved, worst, changed, equal = 0.0, 0.0, ("", 0.0), 0, True
    try:
        for tensor in planned:
            if not trained.changed(tensor.name) or not trained.floating(tensor.name):
                for piece in trained.slices(tensor.name):
                    writer.write(tensor.name, piece.to(tensor.dtype))
                continue
            change = _change(trained, tensor, writer)
            give_back()
            lost, moved = lost + change.lost, moved + change.moved
            changed, equal = changed + (change.moved > 0), equal and change.equal
            if change.moved and (change.lost / change.moved) ** 0.5 > worst[1]:
                worst = tensor.name, (change.lost / change.moved) ** 0.5
        if equal:
            raise ParityFailed(
                "the merged model is the base, bit for bit: the adapter changes nothing"
                + (f" that {saved_as} can hold" if moved else ""),
                where=str(out),
                fix="release.dtype=float32" if moved else "train longer, or with a higher training.learning_rate",
            )
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    return Merged(
        saved_as, len(planned), changed, (lost / moved) ** 0.5 if moved else 0.0, worst[0] or None, worst[1], note
    )


@dataclass(slots=True)
class _Change:
    """Of one tensor: squared norms of what training moved and what the cast lost, and whether nothing is left of it."""

    moved: float = 0.0
    lost: float = 0.0
    equal: bool = True


@torch.no_grad()
def _change(trained: Trained, tensor: Planned, writer: ShardWriter) -> _Change:
    """Write a tensor that training may have changed, block of rows by block of rows, and measure the change."""
    found, after = _Change(), trained.value(tensor.name)
    before = trained.before(tensor.name)
    if before is not None and before.shape != after.shape:
        before = None
    blocks = torch.split(after, max(1, BLOCK // max(1, after[0].numel()))) if after.ndim else (after,)
    at = 0
    for block in blocks:
        cast = block.to(tensor.dtype)
        writer.write(tensor.name, cast)
        if before is None:
            found.moved, found.equal = found.moved + float(block.double().square().sum()), False
        else:
            old = before[at : at + len(block)] if block.ndim else before
            found.moved += float((block - old).double().square().sum())
            found.equal = found.equal and bool(torch.equal(cast, old.to(tensor.dtype)))
            at += len(block) if block.ndim else 0
        found.lost += float((cast.float() - block).double().square().sum())
    return found


def _write_config(trained: Trained, out: Path, saved_as: str) -> None:
    """The config as it was, with what the merge changed."""
    config = dict(trained.config)
    if trained.scores and not trained.whole:
        config = json.loads(trained.model_config.to_json_string())
        config["architectures"] = [
            type(trained.model_config).__name__.removesuffix("Config") + "ForSequenceClassification"
        ]
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = saved_as
    for place in {id(config): config, id(text): text}.values():
        if "dtype" in place or "torch_dtype" in place:
            place["torch_dtype" if "torch_dtype" in place else "dtype"] = saved_as
    config.pop("quantization_config", None)
    text["vocab_size"] = trained.vocabulary
    if trained.model_config.tie_word_embeddings and not trained.tied:
        config["tie_word_embeddings"] = False
    if trained.base.end_token:
        config["eos_token_id"] = trained.base.tokenizer().eos_token_id
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")


def _write_generation_config(trained: Trained, tokenizer: Tokenizer, out: Path) -> None:
    """The trained model's, byte for byte where it names the tokens that end an answer already."""
    if trained.scores:
        return
    path, ends = trained.folder / "generation_config.json", list(stop_ids(tokenizer, trained.base.stop_ids))
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    named = body.get("eos_token_id")
    if path.exists() and set([named] if isinstance(named, int) else named or []) == set(ends):
        _copy(path, out / path.name)
        return
    if not path.exists():
        given = {name: trained.config.get(name) for name in ("bos_token_id", "pad_token_id")}
        body = {name: value for name, value in given.items() if value is not None}
    body["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    write_text(out / path.name, json.dumps(body, indent=2) + "\n")


def write_tokenizer(base: Base, tuned: Path, out: Path) -> None:
    """The tokenizer's files, byte for byte: the base's own, or those saved in training where the recipe adds to them.

    What transformers saves names a class that older readers do not know; there the base's class is written back.
    """
    make_folder(out)
    added = bool(base.new_tokens or base.chat_template or base.end_token)
    source = tuned if added and (tuned / "tokenizer.json").exists() else base.folder
    for name in TEXT_FILES:
        if (source / name).exists():
            _copy(source / name, out / name)
    if source is not base.folder and (base.folder / "tokenizer_config.json").exists():
        known = json.loads((base.folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
        path = out / "tokenizer_config.json"
        saved = json.loads(path.read_text(encoding="utf-8"))
        if known and saved.get("tokenizer_class") != known:
            write_text(path, json.dumps(saved | {"tokenizer_class": known}, indent=2, ensure_ascii=False) + "\n")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise disk_error(target, error) from error


def as_trained(base: Base, tuned: Path, tuning: Tuning, dtype: DtypeName, *, scores: bool = False) -> Any:
    """The model that a merged one has to equal.

    Over a base in 8 bits that is the adapter beside the weights those bits stand for: in training the activations are
    rounded too, which no merged model can repeat.
    """
    if isinstance(tuning, Qlora) and tuning.bits == 8:
        return adapted(dequantised(base, dtype, tuning, scores=scores), tuned)
    return load_tuned(base, tuned, tuning, dtype, scores=scores)


def cannot_merge(kind: str) -> str:
    """Why a tuning is released as an adapter beside the base, and who can serve it."""
    if kind == "adapter":
        return (
            "bottleneck layers cannot be merged: what lies between their weights is not linear. They are served beside "
            "the base by luthier chat"
        )
    return (
        f"{kind} tuning cannot be merged: its virtual tokens are input, not weights. The adapter is served beside the "
        "base by luthier chat, or by any program that uses PEFT"
    )


@torch.no_grad()
def dequantised(base: Base, trained_as: DtypeName, tuning: Qlora, *, scores: bool = False) -> Any:
    """The base in float32, with each quantised layer's weights as its quantised form stands for them in training."""
    from luthier.models.load import load_model
    from luthier.models.tuning import all_linear

    model: Any = load_model(base, trained_as, scores=scores).float()
    for name in all_linear(model):
        weight = model.get_submodule(name).weight
        weight.copy_(requantised(weight.to(DTYPES[trained_as]), tuning))
    return model
