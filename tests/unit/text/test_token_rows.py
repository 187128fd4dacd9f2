"""Rows on disk: what was saved is what is loaded, and a damaged file is named."""

import errno
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from tiny import random_rows

from luthier.errors import DataError, Missing
from luthier.text import RowWriter, load_rows, save_rows
from luthier.text import rows as module

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


@pytest.mark.parametrize("count", [0, 3])
def test_written_one_after_another_they_are_the_same_file_format(tmp_path: Path, count: int) -> None:
    path = tmp_path / "rows.safetensors"
    with RowWriter(path) as writer:
        for i in range(count):
            writer.add(ROWS.row(i))
        assert not path.exists()  # whole or not at all
    found = load_rows(path)
    assert [found.row(i) for i in range(count)] == [ROWS.row(i) for i in range(count)]
    assert (writer.rows, writer.tokens, writer.trained) == (count, len(found.ids), int(found.trained.sum()))
    read = load_file(path)  # the library's own reader
    assert all((read[name] == getattr(found, name)).all() for name in ("ids", "trained", "starts"))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.safetensors"]


def test_many_short_rows_are_counted_piece_by_piece() -> None:
    many = random_rows([1 + i % 3 for i in range(9000)])
    assert many.trained_counts.tolist() == [sum(many.row(i).trained) for i in range(len(many))]


def test_what_could_not_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def broken_off() -> None:
        with RowWriter(tmp_path / "rows.safetensors") as writer:
            writer.add(ROWS.row(0))
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert not list(tmp_path.iterdir())


def test_rows_are_chosen_in_any_order() -> None:
    chosen = ROWS.select([2, 0])
    assert [chosen.row(i) for i in range(len(chosen))] == [ROWS.row(2), ROWS.row(0)]


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
