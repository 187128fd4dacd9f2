"""`luthier release --push`: what is listed, what is sent, and that the token is nowhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import hub_stand_in

from luthier import open_run


def test_a_release_is_listed_sent_and_not_sent_again(luthier: Any, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    listed = luthier("release", done, "--push", "me/tiny", "--dry-run", "--runs", done.parent)
    assert listed.code == 0, listed.err
    assert "model.safetensors" in listed.out
    assert "for me/tiny, private" in listed.out
    assert "nothing was sent" in listed.out
    monkeypatch.setenv("HF_TOKEN", "hf_quiteSecret")
    with hub_stand_in() as hub:
        for name, value in {"ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(constants, name, value)
        sent = luthier("release", done, "--push", "me/tiny", "--json", "--runs", done.parent)
        assert sent.code == 0, sent.err
        assert sent.document["changed"]
        assert sent.document["private"]
        model = open_run(done).artifact("release").path("model")
        assert hub.repositories["me/tiny"].keys() == {path.name for path in model.iterdir()}
        assert {file["name"]: file["bytes"] for file in sent.document["files"]} == {
            path.name: path.stat().st_size for path in model.iterdir()
        }
        again = luthier("release", done, "--push", "me/tiny", "--runs", done.parent)
        assert "has all of it already" in again.out
        assert len(hub.commits) == 1
    written = [path for path in done.rglob("*") if path.is_file()]
    assert written
    assert not any(b"hf_quiteSecret" in path.read_bytes() for path in written)
    assert "hf_quiteSecret" not in json.dumps(sent.document) + sent.err + again.out + again.err


def test_options_of_an_upload_need_one(luthier: Any, done: Path) -> None:
    said = luthier("release", done, "--dry-run")
    assert said.code == 2
    assert "go with --push" in said.err
    said = luthier("release", done, "--push", "me/tiny", "--gguf", "--dry-run", "--runs", done.parent)
    assert said.code == 2
    assert "no GGUF files" in said.err
