"""GGUF files, run by llama.cpp itself: equal ids, equal numbers, for every family and both kinds of tokenizer."""

import errno
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CONFIGS, model_of, spaced, unigram
from tiny import llama, tokenizer
from tokenizers import Regex, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from luthier.errors import Missing, ParityFailed, RecipeError
from luthier.release.gguf.vocabulary import PROBE, Vocabulary, candidates, choose, limits, probes
from luthier.release.gguf.write import FORMATS, Lineage, Source, ids_by_llama_cpp, open_source, write_gguf
from luthier.release.llama import ask
from luthier.release.ollama import write_modelfile

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
ROWS = [[5, 9, 200, 31, 77, 8], list(range(5, 75)), [300, 17, 17, 17]]
ANSWER = [40, 41, 42]
LINEAGE = Lineage("tiny", "org/base", "abc123", "apache-2.0", {"run": "tiny-1"})


@cache
def bytes_vocabulary() -> Vocabulary:
    """That of the byte-level tokenizer, asked of llama.cpp once."""
    return choose(candidates(tokenizer(), 320, [4]), tokenizer(), probes(tokenizer()), ids_by_llama_cpp)


def source_of(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    vocabulary = bytes_vocabulary()
    monkeypatch.setattr("luthier.release.gguf.write.choose", lambda *_: vocabulary)
    return open_source(folder, tokenizer(), [4], [])


def largest_gap(model: Any, path: Path, rows: list[list[int]] = ROWS, **more: Any) -> float:
    """The largest difference of a log-probability between transformers and llama.cpp."""
    asked = [{"do": "score", "prompt": row, "answer": ANSWER, "probable": 320} for row in rows]
    worst = 0.0
    for row, told in zip(rows, ask(path, asked, context=128, **more), strict=True):
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([row + ANSWER])).logits[0, len(row) - 1 :].log_softmax(-1)
        assert len(told) == len(ANSWER) + 1
        assert min(map(len, told)) == 320
        worst = max(worst, *(abs(float(logs[k, int(i)]) - v) for k, seen in enumerate(told) for i, v in seen.items()))
    return worst


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_llama_cpp_computes_what_transformers_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    source = source_of(model, tmp_path / "model", monkeypatch)
    write_gguf(source, tmp_path / "m.gguf", "f32", LINEAGE)
    # llama.cpp chooses long or short factors by its context, transformers by each row's length
    rows = ROWS if "longrope" not in name else [list(range(5, 75))]
    assert largest_gap(model, tmp_path / "m.gguf", rows) < 2e-3


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_each_format_stores_what_it_promises(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices, read back by the package's own reader, within the format's rounding; facts and lineage are there."""
    model = model_of("qwen2 tied")
    source = source_of(model, tmp_path / "model", monkeypatch)
    write_gguf(source, tmp_path / "m.gguf", form, LINEAGE)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    rounding = {"f32": 0.0, "f16": 1e-3, "bf16": 8e-3, "q8_0": 2e-2}[form]
    for name, ours in (
        ("model.layers.1.mlp.up_proj.weight", "blk.1.ffn_up.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        plain = model.get_parameter(name).detach().numpy()
        found = gguf.dequantize(stored[ours].data, stored[ours].tensor_type).reshape(plain.shape)
        limit = 0 if plain.ndim == 1 else rounding
        assert np.abs(found - plain).max() <= limit * np.abs(plain).max()
    assert "output.weight" not in stored  # tied
    told = {name: field.contents() for name, field in reader.fields.items()}
    assert told["general.architecture"] == "qwen2"
    assert (told["general.base_model.0.organization"], told["general.license"]) == ("org", "apache-2.0")
    assert told["luthier.run"] == "tiny-1"
    assert told["tokenizer.chat_template"] == tokenizer().chat_template
    assert told["tokenizer.ggml.eos_token_id"] == 4
    assert len(told["tokenizer.ggml.tokens"]) == 320


def test_llama_cpps_own_greedy_answers_are_those_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty prompts, untied heads with biases: token by token the same, and it stops at the same place."""
    from luthier.models.generate import generate

    model = model_of("llama with biases", 3)
    source = source_of(model, tmp_path / "model", monkeypatch)
    write_gguf(source, tmp_path / "m.gguf", "f32", LINEAGE)
    prompts = [[5 + k, 100 + 3 * k, 7, 200 - 2 * k] for k in range(50)]
    ours = generate(model, tokenizer(), prompts, stop=[4], max_new_tokens=12)
    told = ask(tmp_path / "m.gguf", [{"do": "write", "prompt": p, "most": 12} for p in prompts], context=64)
    for answer, theirs in zip(ours, told, strict=True):
        kept = theirs["ids"][:-1] if theirs["ids"][-1:] == [4] else theirs["ids"]
        assert kept == answer.ids
        assert theirs["stopped"] == answer.stopped


def test_rows_of_the_embedding_without_a_token_are_filled_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = candidates(tokenizer(), 352, [4])[0]
    assert (len(found.tokens), found.tokens[-1], found.kinds[-1]) == (352, "[PAD351]", 5)
    with pytest.raises(RecipeError, match="has 320 tokens, and the model 300 embeddings"):
        candidates(tokenizer(), 300, [4])


@pytest.mark.parametrize("prefix", ["normalizer", "always", "never"])
def test_a_tokenizer_like_sentencepieces_gives_equal_ids(prefix: str) -> None:
    words = spaced(prefix)
    texts = [
        *probes(words), "<s><|im_start|>user\nHi  there <|im_end|>\n", "\u200b\ufeffodd\x00", " ", "   ", "a\tb",
        *(word * n for word in ("ball ", "\N{SNOWMAN}", "é") for n in (1, 7)),
        words.apply_chat_template([{"role": "user", "content": "What is it?"}], tokenize=False),
    ]  # fmt: skip
    if prefix == "always":
        assert (
            "puts a second space before a text that begins with one" in limits(words, candidates(words, 512, [2])[0])[0]
        )
        texts = [text for text in texts if not text.startswith(" ")]
    found = choose(candidates(words, 512, [2]), words, texts, ids_by_llama_cpp)
    assert (found.model, found.facts["add_space_prefix"]) == ("llama", prefix != "never")
    assert (found.facts["bos_token_id"], found.facts["eos_token_id"]) == (1, 2)


ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Of plain words and an end token, without a begin token."""
TALK = [{"role": role, "content": f"What is {role}?"} for role in ("user", "assistant", "user")]


def prompted(words: Any, template: str | None) -> tuple[Any, list[str]]:
    words = deepcopy(words)
    words.chat_template = template
    return words, [words.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)] if template else []


@pytest.mark.parametrize(
    ("template", "prefix", "lead", "begins"),
    [
        ("{{ bos_token }}" + ZEPHYR, False, "", True),  # begins with a control token: no space anywhere
        (ZEPHYR, False, " ", False),  # the first text has one, those after an end token have none
        (None, True, "", True),  # plain texts
    ],
)
def test_what_puts_a_space_before_the_first_text_only_is_read_as_the_prompts_need_it(
    template: str | None, prefix: bool, lead: str, begins: bool
) -> None:
    """The scheme of transformers' LlamaTokenizer, with templates as published."""
    words, prompts = prompted(spaced("first"), template)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    texts = [*prompts, *probes(words, prompts)]
    found = choose(candidates(words, 512, [2], prompts), words, texts, ids_by_llama_cpp)
    assert found.facts["add_space_prefix"] is prefix
    assert found.lead == lead
    assert found.facts["add_bos_token"] is begins
    notes = " ".join(limits(words, found))
    assert ("begins no text with <s>, as the chat template does not" in notes) is not begins
    assert ("chat template writes a space before the prompt" in notes) is bool(lead)


def test_a_file_for_prompts_that_begin_with_plain_words_is_the_trained_model(tmp_path: Path) -> None:
    """TinyLlama's way: the file's template and llama.cpp's tokenizer together give the ids that were trained."""
    from luthier.release.parity.llama_cpp import summon_llama_cpp
    from luthier.release.parity.testimony import Probe

    words, prompts = prompted(spaced("first"), ZEPHYR)
    model = llama(vocab_size=512)
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    source = open_source(tmp_path / "model", words, [2], prompts)
    write_gguf(source, tmp_path / "m.gguf", "f32", LINEAGE)
    asked = [Probe(TALK, prompts[0], words(prompts[0], add_special_tokens=False)["input_ids"])]
    found = summon_llama_cpp(tmp_path / "m.gguf", asked, 4, [[40]], words, [2], vocabulary=source.vocabulary)
    assert found.ids == [asked[0].ids]
    assert found.rendered == prompts
    modelfile = write_modelfile(tmp_path, tmp_path / "m.gguf", words, [2], source.vocabulary.lead)
    assert not modelfile
    assert 'if eq $before "" -}}{{- " <|user|>\\n" -}}' in (tmp_path / "Modelfile").read_text()


def test_a_tokenizer_that_its_own_file_contradicts_is_told(tmp_path: Path) -> None:
    """TinyLlama's files: the JSON puts a space after each control token, transformers 5 builds one that does not."""
    from luthier.release.make import read_otherwise
    from luthier.release.parity.witness import probe
    from luthier.text import load_tokenizer
    from luthier.types import Message

    spaced("normalizer").save_pretrained(tmp_path)
    talk = [Message(turn["role"], turn["content"]) for turn in TALK]  # type: ignore[arg-type]
    for kind, told in (("PreTrainedTokenizerFast", False), ("LlamaTokenizer", True)):
        body = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": kind}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(body))
        words = load_tokenizer(tmp_path)
        words.chat_template = ZEPHYR
        notes = read_otherwise(tmp_path, [probe(talk, words)])
        assert bool(notes) is told
    assert "get other ids than were trained" in notes[0]


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_a_unigram_tokenizer_gives_equal_ids_within_its_vocabulary(byte_fallback: bool) -> None:
    words = unigram(byte_fallback)
    prompts = [words.apply_chat_template(TALK, tokenize=False)]
    found = choose(
        candidates(words, len(words), [2], prompts), words, [*prompts, *probes(words, prompts)], ids_by_llama_cpp
    )
    assert (found.model, found.facts["add_space_prefix"]) == ("t5", True)
    assert any("letters outside its vocabulary are <unk>" in note for note in limits(words, found)) is byte_fallback
    if byte_fallback:
        with pytest.raises(RecipeError, match=r"'a snow.*' begins to differ at token .*<0xE2>.* here, .*<unk>.* there"):
            choose([found], words, ["a snow\N{SNOWMAN}man"], ids_by_llama_cpp)


PRE = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "smaug-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                "isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def divided_by(pre: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|end|>"], min_frequency=1, show_progress=False
    )
    inner.train_from_iterator([PROBE] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


@pytest.mark.parametrize("name", sorted(PRE))
def test_the_way_to_divide_a_text_is_found_by_what_it_does(name: str) -> None:
    words = divided_by(PRE[name])
    assert choose(candidates(words, 600, [0]), words, probes(words), ids_by_llama_cpp).pre == name


def test_a_way_that_llama_cpp_does_not_have_is_refused() -> None:
    odd = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(RecipeError, match=r"divides a text before merging in a way that llama\.cpp does not have"):
        candidates(divided_by(odd), 600, [0])
    before = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(RecipeError, match="puts a space before every text"):
        candidates(divided_by(before), 600, [0])


def test_ids_that_differ_are_shown() -> None:
    words, found = tokenizer(), candidates(tokenizer(), 320, [4])[:1]
    with pytest.raises(RecipeError, match=r"does not give this tokenizer's ids: 'ab' begins to differ at token 1"):
        choose(found, words, ["ab"], lambda *_: [[words.convert_tokens_to_ids("a"), 7]])


def test_a_kind_of_model_that_is_not_known_says_what_is(tmp_path: Path) -> None:
    from tiny import of_config
    from transformers import GPT2Config

    of_config(GPT2Config(vocab_size=320, n_embd=64, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="models of kind 'gpt2' are not written as GGUF here; known: llama, mistral"):
        open_source(tmp_path, tokenizer(), [4], [])


def test_a_full_disk_is_a_sentence_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(llama(), tmp_path / "model", monkeypatch)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(Missing, match="No space left on device"):
        write_gguf(source, tmp_path / "m.gguf", "f16", LINEAGE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_file_that_llama_cpp_cannot_load_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(ParityFailed, match=r"llama\.cpp cannot run the file"):
        ask(tmp_path / "m.gguf", [{"do": "tokenize", "text": "a"}], context=64)


@pytest.mark.parametrize("form", ["f32", "f16"])
@torch.no_grad()
def test_an_adapter_beside_its_base_is_the_tuned_model(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rsLoRA, whose scale is no ratio of alpha and rank, on layers whose rows llama.cpp orders its own way."""
    from tiny import base

    from luthier.models.load import load_model
    from luthier.models.tuned import load_tuned, save_tuned
    from luthier.models.tuning import tune
    from luthier.recipe import Lora
    from luthier.release.gguf.adapter import write_adapter

    tuning = Lora(kind="lora", rank=4, alpha=8.0, rslora=True)
    model: Any = tune(load_model(base(), "float32"), tuning, 1)
    torch.manual_seed(0)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.add_(torch.randn_like(parameter) * 0.05)
    save_tuned(model, tokenizer(), base(), tmp_path / "tuned")
    source = source_of(load_model(base(), "float32"), tmp_path / "base", monkeypatch)
    write_gguf(source, tmp_path / "base.gguf", "f32", LINEAGE)
    write_adapter(base(), tmp_path / "tuned", tuning, tmp_path / "a.gguf", form, LINEAGE, "float32")
    trained = load_tuned(base(), tmp_path / "tuned", tuning, "float32")
    assert largest_gap(trained, tmp_path / "base.gguf") > 0.5
    assert largest_gap(trained, tmp_path / "base.gguf", lora=tmp_path / "a.gguf") < (2e-3 if form == "f32" else 2e-2)


def test_adapters_that_llama_cpp_does_not_apply_say_why() -> None:
    from luthier.recipe import Ia3, Lora, Qlora
    from luthier.release.gguf.adapter import check_adapter

    for tuning, reason in (
        (Lora(kind="lora", dora=True), "have no magnitudes"),
        (Lora(kind="lora", modules_to_save=("embed_tokens",)), r"layers trained whole \(embed_tokens\)"),
        (Lora(kind="lora", target_modules=["q_proj", "embed_tokens"]), "the embedding is adapted"),
        (Qlora(kind="qlora"), "has learned beside rounded weights"),
        (Ia3(kind="ia3"), "applies lora adapters only, not ia3"),
    ):
        with pytest.raises(RecipeError, match=reason):
            check_adapter(tuning)
    check_adapter(Lora(kind="lora", rslora=True))


def test_fewer_bits_by_the_library_or_the_users_program_or_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.release.gguf import kquants

    program = tmp_path / "llama-quantize"
    program.write_text('#!/bin/sh\n[ "$3" = Q5_K_M ] && cp "$1" "$2" || { echo "unknown type" >&2; exit 2; }\n')
    program.chmod(0o755)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(kquants, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(Missing, match=r"need llama\.cpp's quantiser") as caught:
        kquants.quantise(tmp_path / "m.gguf", tmp_path / "q.gguf", "q4_k_m")
    assert "pip install 'luthier[kquants]'" in str(caught.value.fix)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("LLAMA_QUANTIZE", str(program))
    kquants.quantise(tmp_path / "m.gguf", tmp_path / "q.gguf", "q5_k_m")
    assert (tmp_path / "q.gguf").read_bytes() == b"GGUF"
    with pytest.raises(ParityFailed, match="quantiser failed: unknown type"):
        kquants.quantise(tmp_path / "m.gguf", tmp_path / "r.gguf", "q4_k_m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama-quantize", "m.gguf", "q.gguf"]


@pytest.mark.parametrize("form", ["q4_k_m", "q5_k_m", "q6_k"])
def test_llama_cpps_own_quantiser_makes_a_file_that_it_runs(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp")
    from families import SIZES
    from tiny import of_config
    from transformers import LlamaConfig

    from luthier.release.gguf.kquants import quantise

    model = of_config(LlamaConfig(**(SIZES | {"hidden_size": 256, "intermediate_size": 512})))
    source = source_of(model, tmp_path / "model", monkeypatch)
    write_gguf(source, tmp_path / "m.gguf", "f32", LINEAGE)
    quantise(tmp_path / "m.gguf", tmp_path / "q.gguf", form)
    assert (tmp_path / "q.gguf").stat().st_size < (tmp_path / "m.gguf").stat().st_size / 3
    assert 1e-3 < largest_gap(model, tmp_path / "q.gguf") < 12
    kept = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "q.gguf").fields.items()}
    assert kept["tokenizer.chat_template"] == tokenizer().chat_template


def test_a_checkouts_converter_is_run_as_it_is(tmp_path: Path) -> None:
    from luthier.release.gguf.converter import convert

    script = tmp_path / "convert_hf_to_gguf.py"
    with pytest.raises(Missing, match=r"the folder has no convert_hf_to_gguf\.py"):
        convert(tmp_path, tmp_path, tmp_path / "m.gguf", "f16")
    script.write_text(
        "import sys\nif sys.argv[3] == 'bf16': sys.exit('NotImplementedError: Architecture X is not supported')\n"
        "open(sys.argv[5], 'w').write(' '.join(sys.argv[1:4]))\n"
    )
    convert(tmp_path, tmp_path, tmp_path / "m.gguf", "f16")
    assert (tmp_path / "m.gguf").read_text() == f"{tmp_path} --outtype f16"
    with pytest.raises(RecipeError, match="converter refuses the model: NotImplementedError: Architecture X"):
        convert(tmp_path, tmp_path, tmp_path / "n.gguf", "bf16")
    assert not list(tmp_path.glob("n.*"))
