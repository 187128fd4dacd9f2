"""The machine's speeds: measured once, noted, and measured again when the note is of another machine or damaged."""

from pathlib import Path

import pytest

from luthier.models import fastest
from luthier.models.fastest import Speeds, speeds


def test_they_are_measured_once_and_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = speeds(tmp_path)
    assert min(first.float32, first.bfloat16, first.int8) > 1e6
    monkeypatch.setattr(fastest, "_measure", lambda: Speeds(1.0, 2.0, 3.0))
    assert speeds(tmp_path) == first
    (note,) = tmp_path.glob("speeds-*.json")
    note.write_text("{")
    assert speeds(tmp_path) == Speeds(1.0, 2.0, 3.0)
    monkeypatch.setattr(fastest, "_machine", lambda: "another")
    monkeypatch.setattr(fastest, "_measure", lambda: Speeds(4.0, 2.0, 3.0))
    assert speeds(tmp_path).float32 == 4.0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(fastest, "_measure", lambda: Speeds(1.0, 2.0, 3.0))
    assert speeds(tmp_path / "file" / "below").dtype == "bfloat16"


def test_integers_pay_only_where_they_are_clearly_faster() -> None:
    assert not Speeds(100.0, 50.0, 120.0).multiplies_int8
    assert Speeds(100.0, 50.0, 400.0).multiplies_int8
    assert Speeds(100.0, 50.0, 400.0).dtype == "float32"
