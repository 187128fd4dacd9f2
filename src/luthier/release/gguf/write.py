"""A merged model as a GGUF file: facts, vocabulary, and its tensors, read and written one at a time."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from luthier.artifact import disk_error
from luthier.errors import Missing, ParityFailed, RecipeError
from luthier.release.gguf.families import Facts, Family, extra_tensors, facts_of, family_of, for_llama_cpp
from luthier.release.gguf.vocabulary import Vocabulary, candidates, choose, limits, probes
from luthier.release.llama import INSTALL, ask
from luthier.release.weights import Weights, give_back
from luthier.text.tokenizer import Tokenizer

Format = str
FORMATS: dict[Format, tuple[str, int]] = {
    "f32": ("F32", 0),
    "f16": ("F16", 1),
    "bf16": ("BF16", 32),
    "q8_0": ("Q8_0", 7),
}
"""Formats written here -> ggml's type of the matrices, and the number that stands for the file as a whole."""
TINY = 32
"""Width of the model that a vocabulary is tried in."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a file comes from, for its metadata."""

    name: str
    base: str
    revision: str | None = None
    license: str | None = None
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A merged model on disk, with what is known of it: config, family, facts, vocabulary, notes for the user."""

    folder: Path
    config: Any
    family: Family
    facts: Facts
    vocabulary: Vocabulary
    template: str | None
    notes: list[str]


def need_gguf() -> Any:
    """The package `gguf`.

    Raises:
        Missing: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise Missing("writing GGUF needs the package gguf", where="release.gguf", fix=INSTALL) from error
    return gguf


def open_source(folder: Path, tokenizer: Tokenizer, stop: Sequence[int], texts: Sequence[str]) -> Source:
    """Read what a merged model is, and find the vocabulary that gives its tokenizer's ids in llama.cpp.

    Args:
        folder: of the merged model.
        tokenizer: its own.
        stop: ids that end an answer.
        texts: rendered prompts: what will be asked.

    Raises:
        Missing: a package is not installed.
        RecipeError: the model or its tokenizer is of a kind that cannot be written.
    """
    need_gguf()
    config = AutoConfig.from_pretrained(str(folder))
    family = family_of(config.model_type)
    facts, notes = facts_of(config, family)
    found = candidates(tokenizer, rows_of(folder), stop, texts)
    vocabulary = choose(found, tokenizer, [*texts, *probes(tokenizer, texts)], ids_by_llama_cpp)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return Source(folder, config, family, facts, vocabulary, template, notes + limits(tokenizer, vocabulary))


def rows_of(folder: Path) -> int:
    """Rows of a model's embedding."""
    places = Weights.of_folder(folder).places
    return next(place.shape[0] for name, place in places.items() if name.endswith("embed_tokens.weight"))


def write_gguf(source: Source, out: Path, form: Format, lineage: Lineage) -> None:
    """Write one file, whole or not at all.

    Args:
        source: the merged model.
        out: the file.
        form: of `FORMATS`.
        lineage: where it comes from.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    gguf = need_gguf()
    writer = gguf.GGUFWriter(None, source.family.architecture)
    kind, number = FORMATS[form]
    _write_facts(gguf, writer, source, lineage, number)
    write_vocabulary(writer, source.vocabulary, source.template)
    planned = list(_planned(gguf, source, kind))
    for name, shape, stored, _ in planned:
        size = _bytes(gguf, shape, stored)
        kept = (*shape[:-1], size // max(1, int(np.prod(shape[:-1])))) if stored.name not in ("F32", "F16") else shape
        writer.add_tensor_info(name, kept, *plain_type(stored), size, raw_dtype=stored)
    write_file(writer, out, (packed(gguf, load(), stored) for _, _, stored, load in planned))


def plain_type(stored: Any) -> tuple[Any]:
    """What numpy holds a type in: numbers, or bytes of blocks."""
    return (np.dtype({"F32": np.float32, "F16": np.float16}.get(stored.name, np.uint8)),)


def _bytes(gguf: Any, shape: Sequence[int], stored: Any) -> int:
    block, size = gguf.GGML_QUANT_SIZES[stored]
    return int(np.prod(shape)) // int(block) * int(size)


def write_file(writer: Any, out: Path, tensors: Iterator[Any]) -> None:
    """Header, facts and tensors in the announced order, aside first and renamed when whole.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    aside = out.with_name(out.name + ".partial")
    try:
        writer.write_header_to_file(path=aside)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor)
            give_back()
        for file in writer.fout:
            file.flush()
            os.fsync(file.fileno())
        writer.close()
        aside.replace(out)
    except OSError as error:
        raise disk_error(out, error) from error
    finally:
        for file in writer.fout or ():
            file.close()
        aside.unlink(missing_ok=True)


def packed(gguf: Any, tensor: torch.Tensor, stored: Any) -> Any:
    """A float32 tensor as numpy has it in one of ggml's types."""
    plain = tensor.detach().contiguous().numpy()
    return np.ascontiguousarray(gguf.quants.quantize(plain, stored))


def _planned(gguf: Any, source: Source, kind: str) -> Iterator[tuple[str, tuple[int, ...], Any, Any]]:
    """Name in the file, shape, type, and what gives the tensor in float32."""
    for name, stored_name in names_in_gguf(source.folder, source.config, source.family).items():
        shape = Weights.of_folder(source.folder).places[name].shape
        stored = stored_as(gguf, shape, kind)

        def load(name: str = name) -> torch.Tensor:
            tensor = Weights.of_folder(source.folder)[name].float()
            return for_llama_cpp(name, tensor, source.config, source.family)

        yield stored_name, shape, stored, load
    for name, tensor in extra_tensors(source.config):
        yield name, tuple(tensor.shape), gguf.GGMLQuantizationType.F32, lambda tensor=tensor: tensor


def names_in_gguf(folder: Path, config: Any, family: Family) -> dict[str, str]:
    """Name in the model's files -> name in GGUF.

    Raises:
        RecipeError: a tensor has no place in llama.cpp's architecture.
    """
    gguf = need_gguf()
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(known[family.architecture], config.num_hidden_layers)
    names = {}
    for name in Weights.of_folder(folder):
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        found = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise RecipeError(
                f"llama.cpp's architecture '{family.architecture}' has no place for '{name}'",
                where="release.gguf",
                fix="leave release.gguf out and serve the merged model",
            )
        names[name] = found
    return names


def stored_as(gguf: Any, shape: Sequence[int], kind: str) -> Any:
    """The type of one tensor: vectors stay in float32, and rows that blocks do not divide are stored in 16 bits."""
    types = gguf.GGMLQuantizationType
    if len(shape) < 2:
        return types.F32
    if kind == "Q8_0" and shape[-1] % gguf.GGML_QUANT_SIZES[types.Q8_0][0]:
        return types.F16
    return types[kind]


def _write_facts(gguf: Any, writer: Any, source: Source, lineage: Lineage, number: int) -> None:
    for key, value in source.facts.items():
        put(writer, f"{source.family.architecture}.{key}", value)
    write_lineage(writer, lineage)
    writer.add_file_type(number)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def write_lineage(writer: Any, lineage: Lineage) -> None:
    """Name, base, licence, and the hashes that lead back to the run."""
    writer.add_name(lineage.name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, lineage.base.rpartition("/")[2])
    if lineage.base.count("/") == 1 and not lineage.base.startswith((".", "/")):
        writer.add_base_model_organization(0, lineage.base.partition("/")[0])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{lineage.base}")
    if lineage.revision:
        writer.add_base_model_version(0, lineage.revision)
    if lineage.license:
        writer.add_license(lineage.license)
    for key, value in lineage.more.items():
        writer.add_string(f"luthier.{key}", value)


def put(writer: Any, key: str, value: Any) -> None:
    """One fact, in the type that llama.cpp reads it in."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_vocabulary(writer: Any, vocabulary: Vocabulary, template: str | None) -> None:
    """The tokenizer's keys."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    for key, value in vocabulary.facts.items():
        if key == "precompiled_charsmap":
            writer.add_precompiled_charsmap(bytes(value))
        else:
            put(writer, f"tokenizer.ggml.{key}", value)
    if template:
        lead = f"{{{{ '{vocabulary.lead}' }}}}" if vocabulary.lead else ""
        writer.add_chat_template(lead + template)


def ids_by_llama_cpp(vocabulary: Vocabulary, texts: Sequence[str]) -> list[list[int]] | None:
    """llama.cpp's ids of texts with a vocabulary, tried in a model of one thin layer; None where it breaks."""
    gguf = need_gguf()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        _write_thin_model(gguf, path, vocabulary)
        try:
            return ask(path, [{"do": "tokenize", "text": text} for text in texts], context=64)
        except ParityFailed:
            return None


def _write_thin_model(gguf: Any, path: Path, vocabulary: Vocabulary) -> None:
    writer = gguf.GGUFWriter(None, "llama")
    facts: Facts = {
        "block_count": 1, "context_length": 64, "embedding_length": TINY, "feed_forward_length": TINY,
        "attention.head_count": 1, "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": len(vocabulary.tokens),
    }  # fmt: skip
    for key, value in facts.items():
        put(writer, f"llama.{key}", value)
    write_vocabulary(writer, vocabulary, None)
    tensors: dict[str, Any] = {"token_embd.weight": np.zeros((len(vocabulary.tokens), TINY), np.float16)}
    tensors |= {f"blk.0.{name}_norm.weight": np.ones(TINY, np.float32) for name in ("attn", "ffn")}
    tensors["output_norm.weight"] = np.ones(TINY, np.float32)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        tensors[f"blk.0.{name}.weight"] = np.zeros((TINY, TINY), np.float16)
    for name, tensor in tensors.items():
        writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.nbytes)
    write_file(writer, path, iter(tensors.values()))
