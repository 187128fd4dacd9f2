"""The command line as it is called: arguments in; exit code, standard output and standard error out."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import scenes

from luthier.cli.main import main
from luthier.types import Json


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document it has to be."""
        return json.loads(self.out)


Luthier = Callable[..., Said]


@pytest.fixture
def luthier(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Luthier:
    """Call a verb in an empty folder, with `typed` on standard input. What is no `LuthierError` comes through."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, typed: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "argv", ["luthier", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        code = left.value.code
        return Said(code if isinstance(code, int) else 0, out, err)

    return call


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model."""
    return scenes.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def body(base: Path, tmp_path: Path) -> Json:
    """A recipe that works, as a mapping; its rows lie in the working folder."""
    scenes.write_rows(tmp_path / "rows.jsonl", scenes.conversations(60))
    return scenes.recipe(base, "rows.jsonl")


@pytest.fixture
def recipe(body: Json, tmp_path: Path) -> Path:
    """The same as a file."""
    return scenes.write_recipe(tmp_path / "recipe.yaml", body)


@pytest.fixture(scope="package")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, to look at and never to change."""
    import luthier

    home = tmp_path_factory.mktemp("done")
    rows = scenes.write_rows(home / "rows.jsonl", scenes.conversations(60))
    recipe = scenes.write_recipe(home / "recipe.yaml", scenes.recipe(base, rows))
    return luthier.run(recipe, runs=home / "runs").folder
