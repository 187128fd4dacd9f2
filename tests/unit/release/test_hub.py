"""A release on the hub: whole or not there, sent once, private, and the token nowhere to be read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import Hub, hub_stand_in

from luthier.errors import Missing, RecipeError
from luthier.release.hub import Pushed, push, uploads

TOKEN = "hf_quiteSecretIndeed"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants as constants

    with hub_stand_in() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield found


@pytest.fixture
def release(tmp_path: Path) -> Path:
    model = tmp_path / "release" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 300)
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("---\ntags: [luthier]\n---\n# tiny\n")
    (tmp_path / "release" / "gguf").mkdir()
    (tmp_path / "release" / "gguf" / "tiny-q8_0.gguf").write_bytes(b"GGUF" * 100)
    return tmp_path / "release"


def send(release: Path, **more: bool) -> Pushed:
    return push(uploads(release), "me/tiny", message="a release", wait=lambda _: None, **more)


def content(release: Path) -> dict[str, bytes]:
    return {file.name: file.path.read_bytes() for file in uploads(release)}


def test_all_files_come_in_one_commit_to_a_private_repository(hub: Hub, release: Path) -> None:
    done = send(release)
    assert hub.repositories["me/tiny"] == content(release)
    assert hub.private["me/tiny"]
    assert len(hub.commits) == 1
    assert done.changed
    assert done.page == f"{hub.url}/me/tiny"
    assert hub.tokens - {""} == {f"Bearer {TOKEN}"}  # one question needs no token


def test_a_second_time_nothing_is_sent(hub: Hub, release: Path) -> None:
    send(release)
    hub.requests.clear()
    done = send(release)
    assert not done.changed
    assert len(hub.commits) == 1
    assert not hub.count("/upload/")
    (release / "model" / "config.json").write_text('{"new": 1}')
    assert send(release).changed
    assert hub.commits[-1] == ("me/tiny", ["config.json"])
    assert not hub.count("/upload/")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("place", ["/repos/create", "/preupload/", "/objects/batch", "/upload/", "/commit/"])
def test_a_hub_in_trouble_is_asked_again(hub: Hub, release: Path, place: str, status: int) -> None:
    hub.broken.append([place, status, 2])
    send(release)
    assert hub.repositories["me/tiny"] == content(release)
    assert len(hub.commits) == 1


@pytest.mark.parametrize("place", ["/objects/batch", "/upload/", "/commit/"])
def test_what_fails_leaves_no_half_release_and_goes_on_later(hub: Hub, release: Path, place: str) -> None:
    hub.broken.append([place, 500, 1000])
    with pytest.raises(Missing) as failed:
        send(release)
    assert "run the same command again" in str(failed.value)
    assert hub.repositories["me/tiny"] == {}
    assert not hub.commits
    sent = len(hub.objects)
    hub.broken.clear()
    hub.requests.clear()
    send(release)
    assert hub.repositories["me/tiny"] == content(release)
    assert hub.count("/upload/") == 1 - sent  # what had come through is not sent twice


@pytest.mark.parametrize("status", [400, 401, 403, 500])
@pytest.mark.parametrize("place", ["/repos/create", "/commit/"])
def test_the_token_is_in_no_error(
    hub: Hub,
    release: Path,
    place: str,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    hub.broken.append([place, status, 1000])
    with pytest.raises((Missing, RecipeError)) as failed:
        send(release)
    out, err = capsys.readouterr()
    assert TOKEN not in str(failed.value) + repr(failed.value) + caplog.text + out + err
    assert failed.value.__suppress_context__


def test_a_public_repository_is_no_place_for_a_private_release(hub: Hub, release: Path) -> None:
    hub.repositories["me/tiny"], hub.private["me/tiny"] = {}, False
    with pytest.raises(RecipeError, match="is public already"):
        send(release)
    assert not hub.commits
    send(release, public=True)
    assert hub.repositories["me/tiny"] == content(release)


def test_gguf_files_go_with_the_card(hub: Hub, release: Path) -> None:
    push(uploads(release, gguf=True), "me/tiny-GGUF", message="a release")
    assert hub.repositories["me/tiny-GGUF"].keys() == {"README.md", "tiny-q8_0.gguf"}
    (release / "gguf" / "tiny-q8_0.gguf").unlink()
    with pytest.raises(RecipeError, match="no GGUF files"):
        uploads(release, gguf=True)


def test_without_a_token_or_a_name_it_says_so(release: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    with pytest.raises(RecipeError, match="no name of a repository"):
        push(uploads(release), "me//tiny..", message="x")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(Missing, match="no token"):
        send(release)
