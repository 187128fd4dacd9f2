"""Every tuning: counted exactly, packed as alone, written and read, served, merged or refused with a sentence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from tiny import base, prompts, random_rows, stop, tokenizer

from luthier.errors import DataError, RecipeError
from luthier.models.attention import NAME, attention
from luthier.models.base import Base
from luthier.models.batch import lay_out
from luthier.models.bottleneck import CONFIG, WEIGHTS, bottlenecks
from luthier.models.counting import trainable_parameters
from luthier.models.generate import generate
from luthier.models.load import load_model
from luthier.models.logprobs import batch_logprobs, plain_logprobs
from luthier.models.scoring import row_scores
from luthier.models.tuned import load_tuned, save_tuned
from luthier.models.tuning import causal_model, quantisation, tune, untuned
from luthier.recipe import MERGES, Lora, Tuning
from luthier.release.merge import as_trained, merge
from luthier.train.check import check_scores

KINDS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "freeze": {"kind": "freeze", "blocks": 1},
    "lora": {"kind": "lora", "rank": 4},
    "rslora-dora": {"kind": "lora", "rank": 4, "rslora": True, "dora": True},
    "pissa": {"kind": "lora", "rank": 4, "init": "pissa"},
    "olora-rslora": {"kind": "lora", "rank": 4, "init": "olora", "rslora": True},
    "whole": {"kind": "lora", "rank": 4, "modules_to_save": ["embed_tokens"]},
    "embedding": {"kind": "lora", "rank": 4, "target_modules": ["q_proj", "embed_tokens"]},
    "qlora": {"kind": "qlora", "rank": 4},
    "8-bit": {"kind": "qlora", "rank": 4, "bits": 8},
    "prefix": {"kind": "prefix", "tokens": 5},
    "prefix-projected": {"kind": "prefix", "tokens": 5, "projection": 24},
    "prompt": {"kind": "prompt", "tokens": 5},
    "p-tuning": {"kind": "p-tuning", "tokens": 5, "width": 24},
    "adapter": {"kind": "adapter", "width": 8},
    "adapter-mlp": {"kind": "adapter", "width": 8, "places": "mlp"},
    "ia3": {"kind": "ia3"},
}
EXACT = sorted(KINDS.keys() - {"8-bit"})  # 8 bits round activations by what else is in the batch
ROWS = random_rows([12, 30, 7, 21, 5, 40, 9, 16])


def section(name: str) -> Any:
    return TypeAdapter(Tuning).validate_python(KINDS[name])


def moved(name: str, *, scores: bool = False, of: Base | None = None) -> Any:
    """A tuned model whose trained weights are all away from their beginning."""
    tuning = section(name)
    model = tune(load_model(of or base(), "float32", quantise=quantisation(tuning), scores=scores), tuning, 1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_trainable_parameters_are_counted_from_the_config(name: str) -> None:
    for scores in (False, True):
        real = sum(p.numel() for p in moved(name, scores=scores).parameters() if p.requires_grad)
        assert trainable_parameters(base(), section(name), scores=scores) == real


@pytest.mark.parametrize("name", EXACT)
def test_packed_rows_have_what_they_have_alone_and_the_gradient_too(name: str) -> None:
    """The oracle for virtual tokens is PEFT's own forward pass on each row."""
    model = moved(name)
    found, gradients = [], []
    with attention(causal_model(model), NAME):
        for packed in (True, False):
            logprobs = batch_logprobs(model, lay_out(ROWS, range(8), packed=packed))
            model.zero_grad(set_to_none=True)
            logprobs.sum().backward()
            found.append(logprobs.detach())
            gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None])
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-2)
    alone = []
    for i in range(8):
        row = lay_out(ROWS, [i], packed=False)
        alone.append(plain_logprobs(model, row.ids, row.sources, row.targets))
    torch.testing.assert_close(found[0], torch.cat(alone), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(KINDS))
@torch.no_grad()
def test_what_is_saved_is_what_was_trained(name: str, tmp_path: Path) -> None:
    row = lay_out(ROWS, [1], packed=False)
    for scores in (False, True):
        model = moved(name, scores=scores)
        folder = tmp_path / str(scores)
        save_tuned(model, tokenizer(), base(), folder)
        opened = load_tuned(base(), folder, section(name), "float32", scores=scores)
        if scores:
            found, made = (row_scores(m, causal_model(m).score, ROWS) for m in (opened, model))
            assert found == pytest.approx(made, abs=1e-4)
        else:
            both = [plain_logprobs(m, row.ids, row.sources, row.targets) for m in (model, opened)]
            torch.testing.assert_close(*both, atol=2e-5, rtol=1e-5)
            if "adapter" not in name and KINDS[name]["kind"] not in ("full", "freeze"):
                untouched = load_model(base(), "float32", quantise=quantisation(section(name)))
                theirs = peft.PeftModel.from_pretrained(untouched, str(folder)).eval()
                logprobs = plain_logprobs(theirs, row.ids, row.sources, row.targets)
                torch.testing.assert_close(logprobs, both[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["prefix", "prompt", "p-tuning", "adapter", "lora"])
@torch.no_grad()
def test_answers_in_batches_are_those_of_one_prompt_at_a_time(name: str) -> None:
    """Step by step without a cache, from the model's own forward pass."""
    model = moved(name)
    answers = generate(model, tokenizer(), prompts(5), stop=[stop()], max_new_tokens=6)
    for prompt, answer in zip(prompts(5), answers, strict=True):
        ids = list(prompt)
        for token in answer.ids:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert logits[token] >= logits.max() - 1e-4
            ids.append(token)


@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_switched_off_it_is_the_base(name: str) -> None:
    if KINDS[name]["kind"] in ("full", "freeze") or "init" in KINDS[name]:
        pytest.skip("its own weights are those that change")
    model = moved(name)
    plain = load_model(base(), "float32", quantise=quantisation(section(name)))
    batch = lay_out(ROWS, range(8), packed=True)
    found = []
    for one in (model, plain):
        with attention(causal_model(one), NAME), untuned(one):
            found.append(batch_logprobs(one, batch))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(KINDS))
@torch.no_grad()
def test_merged_it_is_the_same_model_or_says_why_not(name: str, tmp_path: Path) -> None:
    save_tuned(moved(name), tokenizer(), base(), tmp_path / "tuned")
    given = (base(), tmp_path / "tuned", section(name), tokenizer(), tmp_path / "merged")
    if section(name).kind not in MERGES:
        with pytest.raises(RecipeError, match=r"cannot be merged.* served beside the base by luthier chat"):
            merge(*given, trained_as="float32", saved_as="float32")
        return
    merge(*given, trained_as="float32", saved_as="float32")
    merged = load_model(Base("merged", tmp_path / "merged", None, trust_remote_code=False), "float32")
    trained = as_trained(base(), tmp_path / "tuned", section(name), "float32")
    row = lay_out(ROWS, [1], packed=False)
    both = [plain_logprobs(m, row.ids, row.sources, row.targets) for m in (trained, merged)]
    torch.testing.assert_close(*both, atol=1e-4, rtol=1e-4)


def test_pissa_is_saved_with_all_that_was_trained(tmp_path: Path) -> None:
    """PEFT's own conversion loses magnitudes and whole layers; the adapter has twice the rank and the same scaling."""
    tuning = Lora(kind="lora", rank=4, init="pissa", dora=True)
    model = tune(load_model(base(), "float32", scores=True), tuning, 1)
    save_tuned(model, tokenizer(), base(), tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert any("magnitude" in name for name in names)
    assert any("score" in name for name in names)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 64.0, True)


def test_a_bottleneck_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    model = moved("adapter")
    assert len(list(bottlenecks(model))) == 4
    save_tuned(model, tokenizer(), base(), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors["blocks.1.mlp.up.weight"].shape == (64, 8)
    for change, message in (({"blocks.9.mlp.up.bias": torch.zeros(1)}, "blocks.9.mlp.up.bias fits nothing"),):
        save_file(tensors | change, tmp_path / WEIGHTS)
        with pytest.raises(DataError, match=message):
            load_tuned(base(), tmp_path, section("adapter"), "float32")
    save_file({k: v for k, v in tensors.items() if "blocks.0.mlp" not in k}, tmp_path / WEIGHTS)
    with pytest.raises(DataError, match=r"blocks\.0\.mlp is missing"):
        load_tuned(base(), tmp_path, section("adapter"), "float32")
    (tmp_path / CONFIG).write_text('{"format": "other"}')
    with pytest.raises(DataError, match="not a luthier-bottleneck of version 1"):
        load_tuned(base(), tmp_path, section("adapter"), "float32")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"kind": "lora", "rank": 0}, "greater than or equal to 1"),
        ({"kind": "qlora", "init": "pissa"}, "which a quantised one does not allow"),
        ({"kind": "qlora", "bits": 8, "compute_dtype": "float32"}, "no effect with 8 bits"),
        ({"kind": "qlora", "bits": 8, "double_quantisation": True}, "no effect with 8 bits"),
    ],
)
def test_settings_that_cannot_be_get_a_sentence(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        TypeAdapter(Tuning).validate_python(asked)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"kind": "freeze", "blocks": 3}, "the model has 2 blocks, so the last 3 cannot be trained"),
        ({"kind": "lora", "target_modules": ["w_pack"]}, "no layer named w_pack; it has: down_proj, gate_proj"),
        ({"kind": "lora", "modules_to_save": ["embeddings"]}, "no layer named embeddings; it has: .*embed_tokens"),
        ({"kind": "ia3", "target_modules": ["keys"]}, "no layer named keys; it has: down_proj"),
    ],
)
def test_what_the_model_does_not_have_gets_a_sentence(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        tune(load_model(base(), "float32"), TypeAdapter(Tuning).validate_python(asked), 0)


NEW = ("<|think|>", "<|done|>")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["full", "lora", "whole"])
def test_new_tokens_begin_at_the_mean_are_trained_and_saved(kind: str, tied: bool, tmp_path: Path) -> None:
    fresh = replace(base(tied), new_tokens=NEW, end_token="<|done|>")
    words = fresh.tokenizer()
    ids = words.convert_tokens_to_ids(list(NEW))
    assert ids == [320, 321]
    assert words.encode("a<|think|>", add_special_tokens=False)[-1] == 320
    plain: Any = load_model(fresh, "float32")
    old = load_model(base(tied), "float32").get_input_embeddings().weight
    assert plain.generation_config.eos_token_id[0] == 321
    for layer in (plain.get_input_embeddings(), plain.get_output_embeddings()):
        assert layer.weight.shape[0] == 322
    torch.testing.assert_close(plain.get_input_embeddings().weight[321], old.mean(0))
    model = moved(kind, of=fresh)
    assert trainable_parameters(fresh, section(kind)) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    save_tuned(model, words, fresh, tmp_path / "tuned")
    row = torch.tensor([[1, 320, 9, 321]])
    opened = load_tuned(fresh, tmp_path / "tuned", section(kind), "float32")
    with torch.no_grad():
        expected = causal_model(model)(input_ids=row).logits
        torch.testing.assert_close(causal_model(opened)(input_ids=row).logits, expected, atol=1e-5, rtol=1e-5)
        changed = causal_model(model).get_input_embeddings()(torch.tensor([320])) - old.mean(0)
        assert changed.abs().max() > 0.01
        merge(fresh, tmp_path / "tuned", section(kind), words, tmp_path / "m", trained_as="float32", saved_as="float32")
        merged: Any = load_model(Base("m", tmp_path / "m", None, trust_remote_code=False), "float32")
        torch.testing.assert_close(merged(input_ids=row).logits, expected, atol=1e-4, rtol=1e-4)


def test_tunings_that_would_leave_new_tokens_untrained_say_so() -> None:
    fresh = replace(base(), new_tokens=NEW)
    with pytest.raises(RecipeError, match=r"would leave the embeddings of model\.new_tokens as they begin"):
        tune(load_model(fresh, "float32"), section("prompt"), 0)


def test_an_end_token_that_is_not_there_is_named() -> None:
    with pytest.raises(RecipeError, match="'<|none|>' is not in the vocabulary".replace("|", r"\|")):
        replace(base(), end_token="<|none|>").tokenizer()


@pytest.mark.parametrize("packed", [True, False])
def test_scores_are_those_of_transformers_own_classifier(packed: bool) -> None:
    assert check_scores(moved("lora", scores=True), ROWS, packed=packed, compute=torch.float32) < 1e-4


@pytest.mark.parametrize("asked", [{"kind": "qlora", "bits": 8}, {"kind": "qlora"}, {"kind": "ia3"}, {"kind": "lora"}])
def test_a_tuning_is_the_same_after_it_was_written_down(asked: dict[str, Any]) -> None:
    """As the plan does, with every default in it."""
    tuning: Tuning = TypeAdapter(Tuning).validate_python(asked)
    assert TypeAdapter(Tuning).validate_python(tuning.model_dump(mode="json")) == tuning
