"""`luthier init`: a recipe to start from."""

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.console import AsJson, console, put


def init(
    folder: Annotated[Path, typer.Argument(help="Where to put it.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a recipe with its rows, to be edited. Nothing is overwritten."""
    from luthier.artifact import make_folder, write_bytes
    from luthier.errors import RecipeError
    from luthier.pipeline import default_recipe

    make_folder(folder)
    sources = [p for p in sorted(default_recipe().parent.iterdir()) if p.suffix in (".yaml", ".jsonl")]
    for source in sources:
        if (folder / source.name).exists():
            raise RecipeError(
                "the file is there already", where=str(folder / source.name), fix="luthier init OTHER_FOLDER"
            )
    for source in sources:
        write_bytes(folder / source.name, source.read_bytes())
    if as_json:
        put(
            {"status": "done", "run": None, "artifacts": {p.stem: str(folder / p.name) for p in sources}, "metrics": {}}
        )
        return
    console(out=True).print(f"wrote {', '.join(str(folder / p.name) for p in sources)}")
    console(out=True).print(f"next: luthier run {folder / 'recipe.yaml'}")
