"""The merged model: that of PEFT, made tensor by tensor; cast once, in little memory, whole or not at all."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import HIDDEN, base, llama, of_config, tokenizer, tuned
from transformers import GPT2Config, Qwen2Config, Qwen3Config

from luthier.errors import DataError, Missing, ParityFailed
from luthier.models.base import Base, ukulele_file
from luthier.models.load import load_model
from luthier.models.tuned import adapted, load_tuned, save_tuned
from luthier.models.tuning import tune
from luthier.recipe import Ia3, Lora, Qlora, Tuning
from luthier.release.merge import DELTA_BOUND, Merged, merge
from luthier.release.weights import INDEX, Planned, ShardWriter, Weights

LORA = Lora(kind="lora", rank=4, alpha=16.0)


def on_disk(model: Any, folder: Path) -> Base:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return Base("tiny", folder, None, trust_remote_code=False)


@torch.no_grad()
def trained(of: Base, tuning: Tuning, folder: Path, size: float = 0.02) -> Any:
    """A tuned model whose adapter says something, saved."""
    model: Any = tune(load_model(of, "float32"), tuning, 1)
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * size)
    save_tuned(model, tokenizer(), of, folder)
    return model


def done(of: Base, tuning: Tuning, folder: Path, **formats: Any) -> Merged:
    given: dict[str, Any] = {"trained_as": "float32", "saved_as": "float32"} | formats
    return merge(of, folder / "tuned", tuning, tokenizer(), folder / "merged", **given)


SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "qwen2": lambda: of_config(Qwen2Config(**SMALL, tie_word_embeddings=False)),
    "qwen3": lambda: of_config(Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True)),
    "gpt2": lambda: of_config(GPT2Config(vocab_size=320, n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=64)),
}


@pytest.mark.parametrize(
    ("family", "kind"), [("qwen2", "lora"), ("qwen3", "lora"), ("gpt2", "lora"), ("qwen2", "ia3"), ("qwen3", "ia3")]
)
def test_every_tensor_is_the_one_that_peft_makes(family: str, kind: str, tmp_path: Path) -> None:
    """Biases, weights stored the other way round, heads of their own and shared ones."""
    of = on_disk(FAMILIES[family](), tmp_path / "base")
    tuning: Tuning = LORA if kind == "lora" else Ia3(kind="ia3")
    trained(of, tuning, tmp_path / "tuned")
    done(of, tuning, tmp_path)
    expected: Any = load_tuned(of, tmp_path / "tuned", tuning, "float32")
    expected = expected.merge_and_unload().state_dict()
    found = load_model(Base("m", tmp_path / "merged", None, trust_remote_code=False), "float32").state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6, msg=name)


def test_shards_and_their_index_are_those_of_transformers(tmp_path: Path) -> None:
    of = on_disk(llama(tie_word_embeddings=False), tmp_path / "base")
    trained(of, LORA, tmp_path / "tuned")
    done(of, LORA, tmp_path, largest=100_000)
    files = sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "merged" / INDEX).read_text())
    assert {name for file in files for name in load_file(tmp_path / "merged" / file)} == set(index["weight_map"])
    load_model(Base("m", tmp_path / "merged", None, trust_remote_code=False), "float32")
    assert set(Weights.of_folder(tmp_path / "merged")) == set(index["weight_map"])


@pytest.mark.parametrize("trains", ["embed_tokens", "lm_head"])
@torch.no_grad()
def test_shared_embeddings_stay_one_where_both_ends_were_trained_as_one(trains: str, tmp_path: Path) -> None:
    tuning = Lora(kind="lora", rank=4, target_modules=["q_proj"], modules_to_save=(trains,))
    model = trained(base(), tuning, tmp_path / "tuned", 0.1)
    done(base(), tuning, tmp_path)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is (trains == "embed_tokens")
    row = torch.arange(5, 25)[None]
    merged: Any = load_model(Base("m", tmp_path / "merged", None, trust_remote_code=False), "float32")
    torch.testing.assert_close(merged(input_ids=row).logits, model.eval()(input_ids=row).logits, atol=1e-4, rtol=1e-4)
    assert (merged(input_ids=row).logits - load_model(base(), "float32")(input_ids=row).logits).abs().max() > 0.1


def test_a_merge_that_is_the_base_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    save_tuned(tuned(LORA), tokenizer(), base(), tmp_path / "tuned")  # B is zero before the first step
    with pytest.raises(ParityFailed, match="the merged model is the base, bit for bit"):
        done(base(), LORA, tmp_path)
    assert not list((tmp_path / "merged").iterdir())


def test_what_a_format_cannot_hold_is_measured_and_kept_in_float32(tmp_path: Path) -> None:
    """The error against the one that is computed here from both files; the choice at the bound."""
    half = load_model(base(), "float32").bfloat16()
    of = on_disk(half, tmp_path / "base")
    sizes = {}
    for size in (0.02, 0.0005):
        folder = tmp_path / str(size)
        trained(of, LORA, folder / "tuned", size)
        exact = done(of, LORA, folder, trained_as="bfloat16", saved_as="float32")
        assert exact.delta_error == 0
        whole = load_file(folder / "merged" / "model.safetensors")
        rounded = done(of, LORA, folder, trained_as="bfloat16", saved_as="bfloat16")
        cast, old = (
            load_file(folder / "merged" / "model.safetensors"),
            load_file(tmp_path / "base" / "model.safetensors"),
        )
        lost = sum((cast[n].double() - whole[n].double()).square().sum() for n in cast) ** 0.5
        moved = sum((whole[n].double() - old[n].double()).square().sum() for n in cast) ** 0.5
        assert rounded.delta_error == pytest.approx(float(lost / moved), rel=1e-3)
        sizes[size] = rounded, done(of, LORA, folder, trained_as="bfloat16", saved_as=None)
    large, chosen = sizes[0.02]
    assert large.delta_error < DELTA_BOUND
    assert (chosen.dtype, chosen.note, large.note) == ("bfloat16", None, None)
    small, chosen = sizes[0.0005]
    assert small.delta_error > DELTA_BOUND
    assert "of what training changed is lost in bfloat16; release.dtype=float32 keeps it" in str(small.note)
    assert (chosen.dtype, chosen.delta_error) == ("float32", 0)
    assert "released in float32" in str(chosen.note)
    assert json.loads((tmp_path / "0.0005" / "merged" / "config.json").read_text())["dtype"] == "float32"


def test_tokenizer_template_and_generation_config_are_those_of_training(tmp_path: Path) -> None:
    trained(base(), LORA, tmp_path / "tuned")
    done(base(), LORA, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base().folder / name).read_bytes(), name
    changed = replace(base(), end_token="</s>")
    save_tuned(tuned(LORA), changed.tokenizer(), changed, tmp_path / "other" / "tuned")
    trained(changed, LORA, tmp_path / "other" / "tuned")
    merge(
        changed, tmp_path / "other" / "tuned", LORA, changed.tokenizer(), tmp_path / "other" / "merged",
        trained_as="float32",
    )  # fmt: skip
    ends = json.loads((tmp_path / "other" / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert 2 in ends
    assert 4 in ends


@pytest.mark.slow
@torch.no_grad()
def test_qlora_is_merged_into_the_rounded_weights(tmp_path: Path) -> None:
    """On the bundled base: KL to the trained model under 1e-4; into the original weights it is far larger."""
    of = Base("ukulele", ukulele_file(""), None, trust_remote_code=False)
    tuning = Qlora(kind="qlora", rank=8)
    model: Any = tune(load_model(of, "float32", quantise=tuning), tuning, 1)
    torch.manual_seed(2)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.add_(torch.randn_like(parameter) * 0.02)
    save_tuned(model, of.tokenizer(), of, tmp_path / "tuned")
    merge(of, tmp_path / "tuned", tuning, of.tokenizer(), tmp_path / "merged", trained_as="float32")
    merged = load_model(Base("m", tmp_path / "merged", None, trust_remote_code=False), "float32")
    naive: Any = adapted(load_model(of, "float32"), tmp_path / "tuned")
    row = torch.tensor([of.tokenizer().encode("The red lamp costs twelve coins. How much do three lamps cost?")])
    logs = [m(input_ids=row).logits.double().log_softmax(-1) for m in (model.eval(), merged, naive.merge_and_unload())]
    kl, wrong = (float((logs[0].exp() * (logs[0] - other)).sum(-1).mean()) for other in logs[1:])
    assert kl <= 1e-4
    assert wrong > 100 * kl
    assert wrong > 1e-3


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(base(), LORA, tmp_path / "tuned")
    written = 0

    def write(self: ShardWriter, name: str, piece: torch.Tensor) -> None:
        nonlocal written
        written += 1
        if written == 7:
            real_fsync = OSError(errno.ENOSPC, "No space left on device")
            self._stream = Full(self._stream, real_fsync)  # type: ignore[assignment]
        plain(self, name, piece)

    plain = ShardWriter.write
    monkeypatch.setattr(ShardWriter, "write", write)
    with pytest.raises(Missing, match="No space left on device"):
        done(base(), LORA, tmp_path)
    assert not list((tmp_path / "merged").iterdir())


class Full:
    """A file on a disk that is full."""

    def __init__(self, inner: Any, error: OSError) -> None:
        self.inner, self.error = inner, error

    def write(self, _: Any) -> None:
        raise self.error

    def close(self) -> None:
        self.inner.close()


MEASURED = """
import resource, sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from luthier.models.base import Base
from luthier.models.load import quiet
from luthier.recipe import Lora
from luthier.release import merge as room
quiet()
from tiny import tokenizer
of = Base("big", Path(sys.argv[1]), None, trust_remote_code=False)
words = tokenizer()
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
room.merge(of, Path(sys.argv[2]), Lora(kind="lora", rank=2), words, Path(sys.argv[2]).parent / "merged",
           trained_as="bfloat16", saved_as="bfloat16", largest=128 * 2**20)
print(json.dumps([start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A model of 1 GiB in shards of 128 MiB: the merge takes less than a quarter of it over what the libraries take."""
    import peft
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=11, num_attention_heads=16,
        num_key_value_heads=4, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    config.save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    names = {n.replace(".base_layer", "").removeprefix("base_model.model."): p for n, p in wrapped.named_parameters()}
    planned = [Planned(n, tuple(p.shape), torch.bfloat16) for n, p in names.items() if "lora_" not in n]
    planned = [tensor for tensor in planned if tensor.name != "lm_head.weight"]
    writer = ShardWriter(tmp_path / "base", planned, 128 * 2**20)
    for tensor in planned:
        writer.write(tensor.name, torch.full(tensor.shape, 0.01, dtype=torch.bfloat16))
    writer.finish()
    size = sum(tensor.size for tensor in planned)
    assert size > 2**30
    (tmp_path / "tuned").mkdir()
    wrapped.peft_config["default"].save_pretrained(tmp_path / "tuned")
    adapter = {
        n.replace(".default", ""): torch.full(p.shape, 0.05) for n, p in wrapped.named_parameters() if "lora_" in n
    }
    save_file(adapter, tmp_path / "tuned" / "adapter_model.safetensors")
    given = [str(tmp_path / "base"), str(tmp_path / "tuned"), str(Path(__file__).parents[2])]
    told = subprocess.run([sys.executable, "-c", MEASURED, *given], check=True, capture_output=True, text=True)
    start, peak = (kilobytes * 1024 for kilobytes in json.loads(told.stdout.splitlines()[-1]))
    assert peak - start < size / 4
    assert peak < 2 * 2**30 + 128 * 2**20
    merged = Weights.of_folder(tmp_path / "merged")
    assert set(merged) == {tensor.name for tensor in planned}
    changed = merged["model.layers.3.mlp.up_proj.weight"]
    assert torch.equal(changed, torch.full((5632, 2048), 0.01 + 4 * 2 * 0.05**2).bfloat16())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    for cut in (content[:4], content[:-3], b"\xff" * 16):
        (tmp_path / "model.safetensors").write_bytes(cut)
        with pytest.raises(DataError, match="damaged"):
            Weights.of_folder(tmp_path)
