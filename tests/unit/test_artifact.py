"""Artifacts: whole or not there, and every changed byte is noticed."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from luthier import artifact
from luthier.artifact import MANIFEST, Artifact, Store, digest, key_of, open_artifact, write_text
from luthier.errors import DataError, Missing

FILES = {"rows.jsonl": b'{"a": 1}\n', "deep/weights.bin": bytes(range(256))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def make(store: Store, files: dict[str, bytes] = FILES, key: str = "k" * 64, **settings: Any) -> Artifact:
    partial = store.partial("rows", key)
    for name, content in files.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(content)
    return store.finish("rows", key, {"source": "abc"}, settings)


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_finished_is_found_again(store: Store) -> None:
    made = make(store, seed=1)
    found = store.find("rows", "k" * 64)
    assert found == made
    assert found.settings == {"seed": 1}
    assert found.parents == {"source": "abc"}
    found.verify()
    assert store.find("rows", "j" * 64) is None


def test_the_key_is_stable_and_changes_with_settings_and_parents() -> None:
    key = key_of("rows", {"a": 1, "b": [1.5, None]}, {"source": "x"})
    assert key == key_of("rows", {"b": [1.5, None], "a": 1}, {"source": "x"})
    others = [
        key_of("text", {"a": 1, "b": [1.5, None]}, {"source": "x"}),
        key_of("rows", {"a": 2, "b": [1.5, None]}, {"source": "x"}),
        key_of("rows", {"a": 1, "b": [1.5, None], "c": None}, {"source": "x"}),
        key_of("rows", {"a": 1, "b": [1.5, None]}, {"source": "y"}),
        key_of("rows", {"a": 1, "b": [1.5, None]}, {"sourcf": "x"}),
        key_of("rows", {"a": "1", "b": [1.5, None]}, {"source": "x"}),
    ]
    assert len({key, *others}) == len(others) + 1


def test_the_content_hash_does_not_depend_on_the_machine_or_the_order_of_writing(store: Store, tmp_path: Path) -> None:
    made = make(store)
    elsewhere = make(Store(tmp_path / "elsewhere"), dict(reversed(FILES.items())))
    assert made.sha256 == elsewhere.sha256


def test_the_content_hash_changes_with_any_byte_and_any_name(store: Store) -> None:
    seen = {make(store).sha256}
    for position in (0, 100, 255):
        changed = bytearray(FILES["deep/weights.bin"])
        changed[position] ^= 1
        seen.add(make(store, FILES | {"deep/weights.bin": bytes(changed)}).sha256)
    store.partial("rows", "k" * 64)
    seen.add(make(store, {"rows.jsonl": FILES["rows.jsonl"], "deep/weight.bin": FILES["deep/weights.bin"]}).sha256)
    seen.add(make(store, FILES | {"empty": b""}).sha256)
    assert len(seen) == 6


@pytest.mark.parametrize("name", list(FILES))
def test_a_flipped_byte_is_named(store: Store, name: str) -> None:
    made = make(store)
    content = bytearray(made.path(name).read_bytes())
    content[3] ^= 1
    made.path(name).write_bytes(bytes(content))
    with pytest.raises(DataError, match="its bytes changed") as caught:
        made.verify()
    assert caught.value.where == str(made.path(name))
    assert caught.value.exit_code == 3


def test_a_missing_file_is_named(store: Store) -> None:
    made = make(store)
    made.path("deep/weights.bin").unlink()
    with pytest.raises(DataError, match="the file is missing") as caught:
        made.verify()
    assert caught.value.where == str(made.path("deep/weights.bin"))


def test_a_crash_before_finish_leaves_no_finished_folder(tmp_path: Path) -> None:
    crash = (
        "import os, sys; from pathlib import Path; from luthier.artifact import Store\n"
        "partial = Store(Path(sys.argv[1])).partial('rows', 'k' * 64)\n"
        "(partial / 'half').write_text('half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", crash, str(tmp_path)], check=False).returncode == 9
    store = Store(tmp_path)
    assert store.find("rows", "k" * 64) is None
    assert (store.partial("rows", "k" * 64) / "half").read_text() == "half"  # there to go on from


def test_a_crash_amid_finish_leaves_no_finished_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "write_text", crash)
        with pytest.raises(KeyboardInterrupt):
            make(store)
    assert store.find("rows", "k" * 64) is None
    assert make(store).files.keys() == FILES.keys()


def test_what_a_crash_amid_a_write_left_is_no_part_of_the_artifact(store: Store) -> None:
    clean = make(store).sha256
    torn = store.partial("rows", "k" * 64) / ("rows.jsonl" + artifact.ASIDE)
    torn.write_text("half")
    assert make(store).sha256 == clean


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_full_disk_is_told_with_its_path_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "state.json"
    write_text(path, "before")
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, no_space)
        with pytest.raises(Missing, match="No space left on device") as caught:
            write_text(path, "after")
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 5
    assert caught.value.fix
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    (tmp_path / ("a" + artifact.ASIDE)).symlink_to("/dev/full")
    with pytest.raises(Missing, match="No space left on device"):
        write_text(tmp_path / "a", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_end_leaves_no_finished_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(Missing) as caught:
            make(store)
    assert str(caught.value.where).endswith(MANIFEST)
    assert store.find("rows", "k" * 64) is None
    make(store).verify()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Missing) as caught:
        Store(tmp_path / "file").partial("rows", "k" * 64)
    assert str(tmp_path / "file") in str(caught.value.where)


def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "good and \ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_version_is_refused(store: Store) -> None:
    path = make(store).path(MANIFEST)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": artifact.VERSION + 1}))
    with pytest.raises(DataError, match="newer Luthier") as caught:
        open_artifact(path.parent)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": "x"}', '{"version": 1}', '{"version": 1, "kind'])
def test_a_damaged_manifest_is_named(store: Store, content: str) -> None:
    path = make(store).path(MANIFEST)
    path.write_text(content)
    with pytest.raises(DataError, match="damaged") as caught:
        open_artifact(path.parent)
    assert caught.value.where == str(path)


def test_a_damaged_file_read_as_json_is_named(store: Store) -> None:
    made = make(store, {"facts.json": b'{"rows": 3}'})
    assert made.json("facts.json") == {"rows": 3}
    made.path("facts.json").write_bytes(b"\xff")
    with pytest.raises(DataError, match="damaged"):
        made.json("facts.json")


def test_the_digest_of_a_value_takes_any_text() -> None:
    assert digest({"b": 1, "a": "\ud800"}) == digest({"a": "\ud800", "b": 1})
