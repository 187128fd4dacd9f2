"""Making a release: merge, files for llama.cpp, and the proof that each of them is the trained model."""

import gc
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from luthier.artifact import make_folder, write_text
from luthier.errors import Missing, ParityFailed, RecipeError
from luthier.models.base import Base
from luthier.models.load import DtypeName
from luthier.models.tuned import load_tuned, save_tuned
from luthier.recipe import MERGES, Release, Tuning
from luthier.release import ollama
from luthier.release.gguf.adapter import adapter_tensors, check_adapter, write_adapter
from luthier.release.gguf.converter import convert, need_converter
from luthier.release.gguf.kquants import KQUANTS, need_quantiser, quantise
from luthier.release.gguf.write import FORMATS, Lineage, Source, need_gguf, open_source, write_gguf
from luthier.release.llama import need_llama_cpp
from luthier.release.merge import as_trained, cannot_merge, merge
from luthier.release.parity import Probe, Row, Table, Testimony, compare
from luthier.release.parity.diagnosis import of_adapter, of_folder, of_gguf
from luthier.release.parity.llama_cpp import summon_llama_cpp
from luthier.release.parity.served import Server, hear_server
from luthier.release.parity.witness import Elsewhere, exact, hear
from luthier.release.trained import Trained
from luthier.text import load_tokenizer, stop_ids
from luthier.text.tokenizer import Tokenizer

Metrics = Callable[[Sequence[str]], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be released, and what it is asked to prove itself.

    `tokenizer` is the one of training, `tuned` the folder it led to, `most` the tokens an answer may have; `score`
    gives the run's own metrics of the answers to the probes; `servers` are asked what they make of the release, too.
    """

    asked: Release
    base: Base
    tuned: Path
    tuning: Tuning
    tokenizer: Tokenizer
    trained_as: DtypeName
    probes: Sequence[Probe]
    most: int
    lineage: Lineage
    score: Metrics = lambda _: {}
    progress: Callable[[int, int, str], None] = lambda *_: None
    home: Path = Path()
    servers: Sequence[Server] = ()

    @property
    def stop(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return stop_ids(self.tokenizer, self.base.stop_ids)


@dataclass(frozen=True, slots=True)
class Made:
    """The table of parity, what the merge measured, what the user should know, and which servers were not asked."""

    table: Table
    merged: Mapping[str, Any] | None
    notes: Sequence[str]
    not_asked: Mapping[str, str]


def check_wanted(asked: Release, tuning: Tuning, base: Base, home: Path) -> None:
    """Look before an hour of training for what the release will need.

    Raises:
        Missing: a package or a program.
        RecipeError: the adapter cannot be written as asked.
    """
    if asked.gguf and tuning.kind not in (*MERGES, "auto"):
        fix = "leave release.gguf out, or choose a tuning that can be merged, such as lora"
        raise RecipeError(cannot_merge(tuning.kind), where="release.gguf", fix=fix)
    if asked.gguf or asked.gguf_adapter:
        need_gguf()
        need_llama_cpp()
    if set(asked.gguf) & set(KQUANTS):
        need_quantiser()
    if asked.llama_cpp:
        need_converter(home / asked.llama_cpp)
    if asked.gguf_adapter and tuning.kind != "auto":
        check_adapter(tuning, base.new_tokens)


def make_release(job: Job, out: Path, *, merges: bool) -> Made:
    """Make everything that the recipe asks for in `out`, and prove it.

    Args:
        job: what is released.
        out: an existing folder; `model` and `gguf` are made in it.
        merges: whether the released model is whole, not an adapter beside its base.

    Raises:
        Missing: the disk is full, or a package is missing.
        ParityFailed: something is not the trained model; the weights are removed, `parity.json` stays.
        RecipeError: something that was asked for cannot be made of this model.
    """
    with Elsewhere(trust_remote_code=job.base.trust_remote_code) as elsewhere:
        return _make(job, out, elsewhere, merges=merges)


def _make(job: Job, out: Path, elsewhere: Elsewhere, *, merges: bool) -> Made:
    trained = _trained(job)
    rows: list[Row] = []
    notes: list[str] = []
    merged = None
    if merges:
        merged, row = _merged(job, out / "model", trained, elsewhere)
        notes += [merged["note"]] if merged["note"] else []
        notes += read_otherwise(out / "model", job.probes)
        rows.append(row)
        _stop_at_first(job, trained, rows, out)
        if job.asked.gguf:
            rows += _gguf(job, out, trained, notes, elsewhere)
    else:
        notes += [cannot_merge(job.tuning.kind)] if job.tuning.kind not in MERGES else []
        rows.append(_adapter_as_it_is(job, out / "model", trained))
    not_asked: dict[str, str] = {}
    for server in job.servers:
        rows += _served(job, server, out, trained, not_asked)
    if job.asked.gguf_adapter:
        rows.append(_gguf_adapter(job, out, trained))
    _stop_at_first(job, trained, rows, out)
    return Made(_table(job, trained, rows), merged, notes, not_asked)


def _trained(job: Job) -> Testimony:
    job.progress(0, 0, "asking the trained model")
    model = exact(as_trained(job.base, job.tuned, job.tuning, job.trained_as))
    found = hear(model, job.tokenizer, job.stop, job.probes, job.most)
    del model
    gc.collect()
    return found


def _forced(trained: Testimony) -> list[list[int]]:
    return [answer.ids for answer in trained.answers]


def _merged(job: Job, folder: Path, trained: Testimony, elsewhere: Elsewhere) -> tuple[dict[str, Any], Row]:
    job.progress(0, 0, "merging")
    saved_as = None if job.asked.dtype == "auto" else job.asked.dtype
    made = merge(job.base, job.tuned, job.tuning, job.tokenizer, folder, trained_as=job.trained_as, saved_as=saved_as)
    job.progress(0, 0, "asking the merged model in a new process")
    found = elsewhere.hear(folder, job.probes, job.most, _forced(trained))
    row = compare(
        "the merged model",
        made.dtype,
        trained,
        found,
        job.probes,
        score=job.score,
        diagnose=lambda: of_folder(Trained(job.base, job.tuned, job.tuning, job.trained_as), folder)(),
        notes=[f"{made.delta_error:.1%} of what training changed lost in the cast"] if made.delta_error else (),
    )
    return made.to_json(), row


def read_otherwise(folder: Path, probes: Sequence[Probe]) -> list[str]:
    """A note where `tokenizer.json` alone gives other ids than transformers, which builds some tokenizers itself."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return []
    alone = tokenizers.Tokenizer.from_file(str(file))
    alone.no_padding()
    alone.no_truncation()
    texts = [(p.text, p.ids) for p in probes if p.text is not None]
    if all(alone.encode(text, add_special_tokens=False).ids == ids for text, ids in texts):
        return []
    return [
        "transformers 5 reads this tokenizer otherwise than its tokenizer.json says: programs that read that file "
        "alone (transformers 4 and what is built on it) get other ids than were trained"
    ]


def _adapter_as_it_is(job: Job, folder: Path, trained: Testimony) -> Row:
    model = load_tuned(job.base, job.tuned, job.tuning, job.trained_as)
    make_folder(folder)
    save_tuned(model, job.tokenizer, job.base, folder)
    del model
    opened = exact(load_tuned(job.base, folder, job.tuning, job.trained_as))
    words = load_tokenizer(folder, trust_remote_code=job.base.trust_remote_code)
    found = hear(opened, words, job.stop, job.probes, job.most, _forced(trained))
    return compare("the tuned model, loaded again", "float32", trained, found, job.probes, score=job.score)


def _served(job: Job, server: Server, out: Path, trained: Testimony, not_asked: dict[str, str]) -> list[Row]:
    """A row for each thing that a server serves; where it cannot be asked, the reason is noted."""
    places = {"served": out / "model"}
    if server.reads == "gguf":
        places = {form: _gguf_file(job, out, form) for form in job.asked.gguf}
    rows: list[Row] = []
    for form, place in places.items():
        if reason := server.absent(place):
            not_asked[server.name] = reason
            break
        job.progress(0, 0, f"asking {server.name}")
        try:
            with server.start(place) as endpoint:
                found = hear_server(endpoint, job.probes, job.most, _forced(trained), job.stop)
        except Missing as error:
            if job.asked.served:
                raise
            not_asked[server.name] = error.what
            break
        name = server.name if form == "served" else f"{form} by {server.name}"
        rows.append(compare(name, form, trained, found, job.probes, score=job.score))
    return rows


def _gguf(job: Job, out: Path, trained: Testimony, notes: list[str], elsewhere: Elsewhere) -> list[Row]:
    folder = out / "gguf"
    make_folder(folder)
    words = load_tokenizer(out / "model", trust_remote_code=job.base.trust_remote_code)
    source = None
    if not job.asked.llama_cpp:
        source = open_source(out / "model", words, job.stop, [p.text for p in job.probes if p.text])
        notes += source.notes
    rows, files = [], {}
    for form in job.asked.gguf:
        job.progress(0, 0, f"writing {form}")
        files[form] = _gguf_file(job, out, form)
        _write(job, source, out / "model", files[form], form)
        rows.append(_by_llama_cpp(job, source, files[form], form, trained))
        rows += _read_back(job, out / "model", files[form], form, trained, elsewhere)
    for helper in folder.glob("*.whole"):
        helper.unlink()
    if job.asked.ollama:
        lead = source.vocabulary.lead if source else ""
        notes += ollama.write_modelfile(folder, files[job.asked.gguf[0]], words, job.stop, lead)
    return rows


def _gguf_file(job: Job, out: Path, form: str) -> Path:
    return out / "gguf" / f"{file_name(job.lineage.name)}-{form}.gguf"


def file_name(name: str) -> str:
    """A run's name as the beginning of a file's."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name)


def _write(job: Job, source: Source | None, model: Path, file: Path, form: str) -> None:
    if form in FORMATS and source is not None:
        write_gguf(source, file, form, job.lineage)
    elif form in FORMATS:
        convert(job.home / str(job.asked.llama_cpp), model, file, form)
    else:  # fewer bits are made from a file that holds every bit of the merged model
        whole = file.with_name("f32.whole")
        if not whole.exists():
            _write(job, source, model, whole, "f32")
        quantise(whole, file, form)


def _by_llama_cpp(job: Job, source: Source | None, file: Path, form: str, trained: Testimony) -> Row:
    job.progress(0, 0, f"asking llama.cpp with {form}")
    words = source.vocabulary if source else None
    found = summon_llama_cpp(file, job.probes, job.most, _forced(trained), job.tokenizer, job.stop, vocabulary=words)
    look = of_gguf(source, file) if source else (lambda: None)
    return compare(f"{form} by llama.cpp", form, trained, found, job.probes, score=job.score, diagnose=look)


def _read_back(job: Job, folder: Path, file: Path, form: str, trained: Testimony, elsewhere: Elsewhere) -> list[Row]:
    """The file's weights as transformers reads them; not every kind of model that llama.cpp runs is read there."""
    try:
        found = elsewhere.hear(folder, job.probes, job.most, _forced(trained), gguf=file)
    except ParityFailed as error:
        if "not supported" not in error.what and "not implemented" not in error.what:
            raise
        return []
    return [compare(f"{form} read back by transformers", form, trained, found, job.probes)]


def _gguf_adapter(job: Job, out: Path, trained: Testimony) -> Row:
    """The adapter as GGUF, applied by llama.cpp to the base, which is written for that and removed."""
    from luthier.models.load import load_model

    form = str(job.asked.gguf_adapter)
    folder = out / "gguf"
    make_folder(folder)
    file, plain, whole = (
        folder / f"{file_name(job.lineage.name)}-adapter-{form}.gguf",
        folder / "base",
        folder / "base.gguf",
    )
    write_adapter(job.base, job.tuned, job.tuning, file, form, job.lineage, job.trained_as)
    try:
        load_model(job.base, job.trained_as).save_pretrained(plain)  # type: ignore[operator]
        job.tokenizer.save_pretrained(plain)
        words = load_tokenizer(plain)
        source = open_source(plain, words, job.stop, [p.text for p in job.probes if p.text])
        write_gguf(source, whole, "f32", job.lineage)
        found = summon_llama_cpp(whole, job.probes, job.most, _forced(trained), job.tokenizer, job.stop, lora=file)
    finally:
        whole.unlink(missing_ok=True)
        for left in plain.glob("*"):
            left.unlink()
        if plain.exists():
            plain.rmdir()
    look = of_adapter(adapter_tensors(Trained(job.base, job.tuned, job.tuning, job.trained_as)), file)
    name = f"the adapter in {form} by llama.cpp"
    return compare(name, form, trained, found, job.probes, score=job.score, diagnose=look)


def _table(job: Job, trained: Testimony, rows: Sequence[Row]) -> Table:
    metrics = job.score([answer.text for answer in trained.answers])
    return Table(len(job.probes), sum(len(a.ids) for a in trained.answers), rows, metrics)


def _stop_at_first(job: Job, trained: Testimony, rows: Sequence[Row], out: Path) -> None:
    """Where one row does not hold, leave its numbers and nothing that somebody could ship."""
    table = _table(job, trained, rows)
    write_text(out / "parity.json", json.dumps(table.to_json(), indent=1) + "\n")
    try:
        table.require()
    except ParityFailed:
        clear(out)
        raise


def clear(out: Path) -> None:
    """Remove what an attempt made: nothing half made is left to be found."""
    for name in ("model", "gguf"):
        shutil.rmtree(out / name, ignore_errors=True)
