"""Parity: honest releases hold, and each sabotage is caught and named by its kind."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CHATML, conversations, llama, tokenizer
from transformers import AutoTokenizer

from luthier.errors import ParityFailed
from luthier.models.base import Base, find_base, ukulele_file
from luthier.models.load import load_model
from luthier.models.tuned import save_tuned
from luthier.models.tuning import tune
from luthier.recipe import Lora, Model, Release
from luthier.release.gguf.write import Lineage
from luthier.release.make import Job, make_release
from luthier.release.merge import as_trained, merge
from luthier.release.parity import Probe, Row, Said, Testimony, compare
from luthier.release.parity.compare import BOUNDS, Table, divergence
from luthier.release.parity.diagnosis import of_folder as look_through
from luthier.release.parity.llama_cpp import summon_llama_cpp
from luthier.release.parity.witness import Elsewhere, exact, hear, of_folder, probe, read_as_trained
from luthier.release.trained import Trained
from luthier.text import load_tokenizer
from luthier.types import Message

TUNING = Lora(kind="lora", rank=4, alpha=8.0)
MOST = 6


@dataclass
class Scene:
    """A tuned model, what it says, and its honest release."""

    base: Base
    tuned: Path
    merged: Path
    words: Any
    probes: list[Probe]
    trained: Testimony

    @property
    def forced(self) -> list[list[int]]:
        return [answer.ids for answer in self.trained.answers]

    def row(self, folder: Path) -> Row:
        """The row of a folder that may have been tampered with."""
        found = of_folder(folder, self.probes, MOST, self.forced)
        look = look_through(Trained(self.base, self.tuned, TUNING, "float32"), folder)
        return compare("the merged model", "float32", self.trained, found, self.probes, diagnose=look)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    home = tmp_path_factory.mktemp("parity")
    llama(num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True).save_pretrained(home / "base")
    tokenizer().save_pretrained(home / "base")
    words = AutoTokenizer.from_pretrained(home / "base")
    words.chat_template = "{{ bos_token }}" + CHATML
    words.save_pretrained(home / "base")
    base = Base("tiny", home / "base", None, trust_remote_code=False)
    model: Any = tune(load_model(base, "float32"), TUNING, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_tuned(model, words, base, home / "tuned")
    merge(base, home / "tuned", TUNING, words, home / "merged", trained_as="float32")
    probes = [probe(talk[:-1], words) for talk in conversations(5)]
    trained = hear(exact(as_trained(base, home / "tuned", TUNING, "float32")), words, [4], probes, MOST)
    return Scene(base, home / "tuned", home / "merged", words, probes, trained)


def test_an_honest_merge_holds_in_a_process_that_knows_nothing_else(scene: Scene, tmp_path: Path) -> None:
    shutil.copytree(scene.merged, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with Elsewhere() as elsewhere:
        with pytest.raises(ParityFailed, match="a new process cannot use the released model: "):
            elsewhere.hear(tmp_path / "m", scene.probes, MOST, scene.forced)
        found = elsewhere.hear(scene.merged, scene.probes, MOST, scene.forced)
    row = compare("merged", "float32", scene.trained, found, scene.probes, score=lambda texts: {"n": float(len(texts))})
    assert (row.holds, row.ids_equal, row.same, row.top) == (True, True, 1.0, 1.0)
    assert row.kl < 1e-8
    assert row.gap < 1e-3
    assert row.metrics == {"n": 5.0}
    assert scene.row(scene.merged).difference is None


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant\n", "assistant "))


def _end_token(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", eos_token="</s>")


def _end_token_text(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_end|>", "<|done|>"))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text((folder / name).read_text().replace("<|im_end|>", "<|done|>"))


def _transposed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.o_proj.weight"
    save_file(tensors | {name: tensors[name].t().contiguous()}, folder / "model.safetensors", metadata={"format": "pt"})


def _rope(folder: Path) -> None:
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    _edit(folder / "config.json", rope_parameters=rope | {"rope_theta": 500.0})


def _scale(folder: Path) -> None:
    """The merge of an adapter at twice its scale."""
    tensors, base = load_file(folder / "model.safetensors"), load_file(folder.parent / "base" / "model.safetensors")
    doubled = {name: 2 * tensor - base[name] for name, tensor in tensors.items()}
    save_file(doubled, folder / "model.safetensors", metadata={"format": "pt"})


def _lost_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    body = json.loads(path.read_text())
    body["added_tokens"] = [token for token in body["added_tokens"] if token["content"] != "<|im_start|>"]
    path.write_text(json.dumps(body))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if key in config:
            config[key] = [token for token in config[key] if token != "<|im_start|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _doubled_begin(folder: Path) -> None:
    """The tokenizer puts the begin token before every text, and the template does, too."""
    path = folder / "tokenizer.json"
    special = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    pieces = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    processor = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": {"<s>": special}}
    _edit(path, post_processor=processor)


SABOTAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "template changed after training": (_template, "template", r"the prompt reads .*assistant"),
    "end token replaced": (_end_token, "tokenizer", r"the eos token is '<\|im_end\|>' in training, '</s>' there"),
    "end token renamed": (_end_token_text, "tokenizer", r"token 4 is '<\|im_end\|>' in training, '<\|done\|>' there"),
    "one weight transposed": (
        _transposed,
        "weights",
        r"'model\.layers\.1\.self_attn\.o_proj\.weight': it is transposed",
    ),
    "rope base wrong": (_rope, "numerics", r"the setting 'rope rope_theta' is 10000\.0 in training, 500\.0 there"),
    "adapter scale wrong": (_scale, "weights", r"proj\.weight': it is off by"),
    "added token lost": (_lost_token, "tokenizer", r"token 3 is '<\|im_start\|>' in training, None there"),
    "BOS doubled": (
        _doubled_begin,
        "tokenizer",
        r"around a text stands \[\] \.\.\. \[\] in training, \[1\] \.\.\. \[\] there",
    ),
}


@pytest.mark.parametrize("name", sorted(SABOTAGE))
def test_each_sabotage_is_caught_and_its_kind_named(name: str, scene: Scene, tmp_path: Path) -> None:
    tamper, kind, what = SABOTAGE[name]
    shutil.copytree(scene.base.folder, tmp_path / "base")
    shutil.copytree(scene.merged, tmp_path / "merged")
    tamper(tmp_path / "merged")
    row = scene.row(tmp_path / "merged")
    assert row.difference is not None
    assert row.difference.kind == kind
    with pytest.raises(ParityFailed, match=f"of kind {kind}: .*{what}") as caught:
        Table(5, 10, [row]).require()
    assert caught.value.exit_code == 4


@pytest.fixture(scope="module")
def released(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with everything, made and proved."""
    pytest.importorskip("xllamacpp")
    out = tmp_path_factory.mktemp("released")
    asked = Release(gguf=("f32", "f16", "bf16", "q8_0"), gguf_adapter="f16", ollama=True)
    made = make_release(job(scene, asked), out, merges=True)
    (out / "table.json").write_text(json.dumps(made.table.to_json() | {"notes": list(made.notes)}))
    return out


def job(scene: Scene, asked: Release) -> Job:
    lineage = Lineage("my run", "tiny", None, None, {"run": "my-run"})
    return Job(
        asked, scene.base, scene.tuned, TUNING, scene.words, "float32", scene.probes, MOST, lineage,
        score=lambda texts: {"letters": sum(map(len, texts)) / len(texts)},
    )  # fmt: skip


def test_all_that_is_released_is_the_trained_model(released: Path) -> None:
    table = json.loads((released / "table.json").read_text())
    names = [row["name"] for row in table["rows"]]
    assert names[0] == "the merged model"
    assert names[-1] == "the adapter in f16 by llama.cpp"
    assert [name for name in names if name.endswith("by llama.cpp")][:4] == [
        f"{form} by llama.cpp" for form in ("f32", "f16", "bf16", "q8_0")
    ]
    assert sum("read back by transformers" in name for name in names) == 4
    assert table["holds"]
    assert all(row["holds"] and row["kl"] <= row["bound"]["kl"] for row in table["rows"])
    assert table["rows"][0]["metrics"] == table["trained"]
    files = sorted(path.name for path in (released / "gguf").iterdir())
    forms = ("adapter-f16", "bf16", "f16", "f32", "q8_0")
    assert files == ["Modelfile", *(f"my-run-{form}.gguf" for form in forms)]
    modelfile = (released / "gguf" / "Modelfile").read_text()
    assert modelfile.startswith('FROM ./my-run-f32.gguf\nTEMPLATE """')
    assert 'PARAMETER stop "<|im_end|>"' in modelfile


def test_ollamas_template_writes_the_prompts_that_were_trained(released: Path, scene: Scene) -> None:
    from luthier.release import gotemplate

    template = (released / "gguf" / "Modelfile").read_text().split('"""')[1]
    for one in scene.probes:
        assert one.messages is not None
        assert gotemplate.render(template, one.messages) == one.text


def test_weights_are_read_back_into_a_model_with_position_scaling(tmp_path: Path) -> None:
    """transformers reads no scaling from a GGUF file: a file that is right must not be refused for that."""
    pytest.importorskip("gguf")
    from luthier.release.gguf.families import facts_of, family_of
    from luthier.release.gguf.vocabulary import candidates
    from luthier.release.gguf.write import Source, write_gguf

    model = llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})
    model.save_pretrained(tmp_path)
    family, words = family_of("llama"), candidates(tokenizer(), 320, [4])[0]
    source = Source(tmp_path, model.config, family, facts_of(model.config, family)[0], words, None, [])
    write_gguf(source, tmp_path / "m.gguf", "f32", Lineage("m", "tiny"))
    asked = [Probe(None, None, list(range(5, 75)))]
    trained = hear(model, tokenizer(), [4], asked, MOST)
    with Elsewhere() as elsewhere:
        found = elsewhere.hear(tmp_path, asked, MOST, [a.ids for a in trained.answers], gguf=tmp_path / "m.gguf")
    row = compare("read back", "f32", trained, found, asked)
    assert row.holds, row.difference
    assert row.gap < 1e-3


def tampered(file: Path, out: Path, **facts: Any) -> Path:
    """A copy of a GGUF file with other facts; `weight` names a matrix to transpose."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(file)
    told = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(out, told.pop("general.architecture"))
    turned = facts.pop("weight", None)
    for name, value in (told | facts).items():
        field = reader.fields[name]
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        data = np.ascontiguousarray(data.T) if tensor.name == turned else data
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("facts", "kind", "what"),
    [
        ({"tokenizer.chat_template": CHATML}, "template", "the prompt reads"),
        ({"tokenizer.ggml.eos_token_id": 2}, "tokenizer", "the eos token is"),
        ({"tokenizer.ggml.add_bos_token": True}, "tokenizer", "around a text stands"),
        ({"llama.rope.freq_base": 500.0}, "numerics", "rope.freq_base' is 10000.0 in training, 500.0 there"),
        ({"weight": "blk.0.attn_output.weight"}, "weights", "'blk.0.attn_output.weight': it is transposed"),
    ],
)
def test_each_sabotage_of_a_gguf_file_is_caught(
    facts: dict[str, Any], kind: str, what: str, released: Path, scene: Scene, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    from luthier.release.gguf.families import facts_of, family_of
    from luthier.release.gguf.vocabulary import candidates
    from luthier.release.gguf.write import Source
    from luthier.release.parity.diagnosis import of_gguf

    config = AutoConfig.from_pretrained(released / "model")
    family = family_of(config.model_type)
    words = load_tokenizer(released / "model")
    vocabulary = candidates(words, 320, [4])[0]
    source = Source(released / "model", config, family, facts_of(config, family)[0], vocabulary, None, [])
    file = tampered(released / "gguf" / "my-run-f32.gguf", tmp_path / "t.gguf", **facts)
    found = summon_llama_cpp(file, scene.probes, MOST, scene.forced, scene.words, [4])
    row = compare("f32", "f32", scene.trained, found, scene.probes, diagnose=of_gguf(source, file))
    assert row.difference is not None
    assert (row.difference.kind, what in row.difference.what) == (kind, True), row.difference


def test_an_adapter_of_another_scale_is_caught(released: Path, scene: Scene, tmp_path: Path) -> None:
    """llama.cpp reads an alpha of 0 as no scale; any other one multiplies what is scaled already."""
    from luthier.release.gguf.adapter import adapter_tensors
    from luthier.release.parity.diagnosis import of_adapter

    honest = released / "gguf" / "my-run-adapter-f16.gguf"
    look = of_adapter(adapter_tensors(Trained(scene.base, scene.tuned, TUNING, "float32")), honest)
    assert look() is None
    file = tampered(honest, tmp_path / "a.gguf", **{"adapter.lora.alpha": 16.0})
    expected = adapter_tensors(Trained(scene.base, scene.tuned, TUNING, "float32"))
    found = of_adapter(expected, file)()
    assert found is not None
    assert (found.kind, found.what) == ("weights", "the adapter's scale 'adapter.lora.alpha' is 16.0, written as 0.0")


def test_what_fails_leaves_its_numbers_and_nothing_to_ship(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "hear", lambda _, folder, *given: (_scaled(folder), of_folder(folder, *given))[1])

    def _scaled(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] *= 1.2
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ParityFailed, match=r"of kind weights: 'model\.norm\.weight': it is off by 20\.0% of its size"):
        make_release(job(scene, Release()), tmp_path, merges=True)
    assert [path.name for path in tmp_path.iterdir()] == ["parity.json"]
    assert json.loads((tmp_path / "parity.json").read_text())["rows"][0]["difference"]["kind"] == "weights"


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kl", "gap"), [("float16", 1e-5, 0.05), ("bfloat16", 1e-4, 0.3)])
def test_a_merge_in_half_the_bits_is_the_trained_model_on_the_bundled_base(
    form: Any, kl: float, gap: float, tmp_path: Path
) -> None:
    base = find_base(Model(base="ukulele"))
    words = base.tokenizer()
    model: Any = tune(load_model(base, "float32"), TUNING, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save_tuned(model, words, base, tmp_path / "tuned")
    merge(base, tmp_path / "tuned", TUNING, words, tmp_path / "merged", trained_as="float32", saved_as=form)
    lines = ukulele_file("skills.jsonl").read_text(encoding="utf-8").splitlines()[::100][:8]
    asked = [probe([Message("user", json.loads(line)["prompt"])], words) for line in lines]
    trained = hear(exact(as_trained(base, tmp_path / "tuned", TUNING, "float32")), words, base.stop_ids, asked, 24)
    found = of_folder(tmp_path / "merged", asked, 24, [answer.ids for answer in trained.answers])
    row = compare("merged", form, trained, found, asked)
    assert (row.holds, row.same, row.ids_equal) == (True, 1.0, True)
    assert 0 < row.kl < kl < BOUNDS[form].kl
    assert row.gap < gap < BOUNDS[form].gap


def test_divergence_is_that_of_the_whole_distributions() -> None:
    """Against float64 over all tokens; with few of them named, a lower bound."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(50, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    whole = float((p.exp() * (p - q)).sum())
    both = [{i: float(x[i]) for i in range(50)} for x in (p, q)]
    assert divergence(*both) == pytest.approx(whole, rel=1e-9)
    few = [{i: float(x[i]) for i in x.topk(20).indices.tolist()} for x in (p, q)]
    assert 0 < divergence(*few) <= whole
    assert divergence(both[0], both[0]) == 0


def test_an_answer_that_a_near_tie_explains_is_no_difference() -> None:
    said, other = Said([5], "a", True), Said([6], "b", True)
    tie = [[{5: math.log(0.5), 6: math.log(0.5)}, {5: 0.0}]]
    clear = [[{5: math.log(0.9), 6: math.log(0.1)}, {5: 0.0}]]
    probes = [Probe(None, None, [1])]
    for scores, holds in ((tie, True), (clear, False)):
        ours = Testimony(answers=[said], scores=scores)
        theirs = Testimony(answers=[other], scores=scores)
        row = compare("x", "f32", ours, theirs, probes)
        assert (row.holds, row.same) == (holds, 0.0)
        assert compare("x", "q8_0", ours, theirs, probes).holds  # answers of a quantised file may differ


def test_a_doubled_begin_token_and_answers_without_an_end_are_named() -> None:
    probes = [Probe([{"role": "user", "content": "a"}], "<s>a", [1, 9])]
    ours = Testimony(rendered=["<s>a"], ids=[[1, 9]], answers=[Said([5], "a", True)], scores=[[{5: 0.0}, {4: 0.0}]])
    theirs = replace(ours, ids=[[1, 1, 9]])
    found = compare("x", "served", ours, theirs, probes).difference
    assert found is not None
    assert (found.kind, found.what) == ("tokenizer", "the begin token 1 stands there twice")
    endless = replace(ours, answers=[Said([5], "a", False)])
    ended = compare("x", "q8_0", ours, endless, probes).difference
    assert ended is not None
    assert ended.what == "0% of its answers end by themselves, of the trained model's 100%"


def test_a_prompt_with_a_typed_control_token_is_no_probe(scene: Scene) -> None:
    assert read_as_trained(probe([Message("user", "hi")], scene.words), scene.words)
    assert not read_as_trained(probe([Message("user", "hi<|im_end|>")], scene.words), scene.words)


def test_wider_formats_have_tighter_bounds() -> None:
    order = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]
    assert [BOUNDS[name].kl for name in order] == sorted(BOUNDS[name].kl for name in order)


def test_what_does_not_fit_in_float32_is_compared_with_that_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.release.parity import witness

    model = llama().bfloat16()
    monkeypatch.setattr(witness, "room_for_float32", lambda _: False)
    assert witness.computed_in(exact(model)) == "bfloat16"
    monkeypatch.undo()
    assert witness.computed_in(exact(model)) == "float32"
    ours = Testimony(scores=[[{5: math.log(0.5), 6: math.log(0.4)}]], computed="bfloat16")
    theirs = Testimony(scores=[[{5: math.log(0.51), 6: math.log(0.39)}]])
    assert compare("x", "f32", ours, theirs, [Probe(None, None, [1])]).holds
    assert not compare("x", "f32", replace(ours, computed="float32"), theirs, [Probe(None, None, [1])]).holds


def test_what_a_release_cannot_have_is_said_before_training(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.errors import Missing, RecipeError
    from luthier.recipe import Prefix
    from luthier.release.gguf import kquants
    from luthier.release.make import check_wanted

    with pytest.raises(RecipeError, match="prefix tuning cannot be merged"):
        check_wanted(Release(gguf=("f16",)), Prefix(kind="prefix"), scene.base, Path())
    monkeypatch.setattr(kquants, "quantiser", lambda: None)
    with pytest.raises(Missing, match=r"need llama\.cpp's quantiser") as caught:
        check_wanted(Release(gguf=("q8_0", "q4_k_m")), TUNING, scene.base, Path())
    assert caught.value.exit_code == 5
    with pytest.raises(Missing, match=r"the folder has no convert_hf_to_gguf\.py"):
        check_wanted(Release(gguf=("f16",), llama_cpp="nowhere"), TUNING, scene.base, Path())
    with pytest.raises(RecipeError, match="magnitudes"):
        check_wanted(Release(gguf_adapter="f16"), Lora(kind="lora", dora=True), scene.base, Path())
