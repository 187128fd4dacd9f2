"""Loading weights: from safetensors only, and what is wrong is said with the place."""

import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny import base, of_config, sizes

from luthier.errors import DataError, RecipeError
from luthier.models.base import Base, find_base
from luthier.models.load import load_model, training_dtype
from luthier.recipe import Model


def place(folder: Path) -> Base:
    return Base("x", folder, None, trust_remote_code=False)


def test_weights_come_in_the_format_asked_for() -> None:
    assert {p.dtype for p in load_model(base(), "bfloat16").parameters()} == {torch.bfloat16}
    assert training_dtype("float16") == "float16"


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    shutil.copy(base().folder / "config.json", tmp_path)
    torch.save(load_model(base(), "float32").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(place(tmp_path), "float32")
    with pytest.raises(DataError, match="never loaded from pickle") as caught:
        find_base(Model(base=str(tmp_path)))
    assert caught.value.where == str(tmp_path)


def test_a_folder_that_is_not_there_is_said() -> None:
    with pytest.raises(RecipeError, match=r"there is no folder .\./nothing"):
        find_base(Model(base="./nothing"))


def test_a_damaged_file_is_said_with_the_place(tmp_path: Path) -> None:
    shutil.copytree(base().folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_model(place(tmp_path), "float32")
    assert caught.value.where == str(tmp_path)


def test_a_tensor_that_is_in_no_file_is_not_made_up(tmp_path: Path) -> None:
    shutil.copytree(base().folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 of the model's tensors are in no file.*layers\.1\.mlp\.up_proj"):
        load_model(place(tmp_path), "float32")


def test_a_base_is_the_same_while_its_bytes_are(tmp_path: Path) -> None:
    shutil.copytree(base().folder, tmp_path / "a")
    before = place(tmp_path / "a").identity()
    assert before == base().identity()
    (tmp_path / "a" / "scores.json").write_text("{}")  # says something about the model, is no part of it
    assert place(tmp_path / "a").identity() == before
    config = tmp_path / "a" / "config.json"
    config.write_text(config.read_text() + " ")
    assert place(tmp_path / "a").identity() != before
    assert base().context == 256
    assert base().stop_ids == [4]


def test_a_family_without_fused_attention_is_loaded_with_its_own(tmp_path: Path) -> None:
    of_config(hf.Gemma2Config(**sizes())).save_pretrained(tmp_path)
    assert load_model(place(tmp_path), "float32").config._attn_implementation == "eager"
    assert load_model(base(), "float32").config._attn_implementation == "sdpa"
