"""Rows on disk: what was saved is what is loaded, and a damaged file is named."""

import errno
from pathlib import Path
from typing import Any

import pytest
from tiny import random_rows

from luthier.errors import DataError, Missing
from luthier.text import load_rows, save_rows
from luthier.text import rows as module
from luthier.text.rows import gather

ROWS = random_rows([5, 1, 9])


def test_saved_rows_are_loaded_again(tmp_path: Path) -> None:
    rows = [ROWS.row(i) for i in range(3)]
    save_rows(tmp_path / "rows.safetensors", rows)
    found = load_rows(tmp_path / "rows.safetensors")
    assert [found.row(i) for i in range(3)] == rows
    assert found.lengths.tolist() == [5, 1, 9]
    assert found.trained_counts.tolist() == [sum(row.trained) for row in rows]


def test_no_rows_are_rows_too(tmp_path: Path) -> None:
    save_rows(tmp_path / "rows.safetensors", [])
    assert len(load_rows(tmp_path / "rows.safetensors")) == 0


def test_rows_are_chosen_and_joined() -> None:
    both = ROWS.select([2, 0]) + gather([ROWS.row(1)])
    assert [both.row(i) for i in range(3)] == [ROWS.row(2), ROWS.row(0), ROWS.row(1)]


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b"\xff" * 8 + b[8:], lambda b: b"", None])
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "rows.safetensors"
    save_rows(path, [ROWS.row(0)])
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(DataError) as caught:
        load_rows(path)
    assert caught.value.where == str(path)


def test_a_file_with_other_tensors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    module.save_file({"ids": ROWS.ids}, path)
    with pytest.raises(DataError, match="damaged"):
        load_rows(path)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(Missing, match="No space left on device"):
        save_rows(tmp_path / "rows.safetensors", [ROWS.row(0)])
