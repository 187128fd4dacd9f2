"""`luthier release`: merge and parity, and the way to the hub."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.console import RUNS, AsJson, Overrides, Recipe, Runs, console, document, put, work

if TYPE_CHECKING:
    from luthier.runs import Run


def release(
    recipe: Recipe = None,
    overrides: Overrides = None,
    push: Annotated[
        str | None,
        typer.Option("--push", help="Upload it to this repository of the hub, privately.", metavar="OWNER/NAME"),
    ] = None,
    gguf: Annotated[bool, typer.Option("--gguf", help="Upload its GGUF files instead of the model.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Everybody may see the repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be uploaded, and send nothing.")] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Merge the tuned model and prove that it is the same. What answers otherwise is not released."""
    from luthier.errors import RecipeError

    if push is None and (gguf or public or dry_run):
        raise RecipeError("--gguf, --public and --dry-run go with --push", fix="luthier release RUN --push OWNER/NAME")
    run, _ = work(recipe, overrides, runs, "release", as_json=as_json)
    more = _push(run, push, gguf=gguf, public=public, dry_run=dry_run, quiet=as_json) if push else {}
    if as_json:
        put(document(run, **more))
    elif not push:
        _show_parity(run.artifact("release").json("parity.json"))
        console(out=True).print(f"released: {run.artifacts['release'] / 'model'}")
        console(out=True).print(f"luthier chat {run.name}")


def _show_parity(parity: dict[str, Any]) -> None:
    """One line a witness: what it is, how far it is from the trained model, and what it had to keep."""
    screen = console(out=True)
    for row in parity.get("rows", ()):
        said = [f"KL {row['kl']:.2g} (at most {row['bound']['kl']:g})", f"same likeliest token {row['top']:.1%}"]
        said += [f"same answer {row['same']:.0%}"] if row["same"] is not None else []
        said += [f"{name} {value:.3f}" for name, value in row["metrics"].items()]
        screen.print(f"{row['name']}: {', '.join(said)}", highlight=False)
    for note in parity.get("notes", ()):
        screen.print(f"note: {note}", highlight=False)
    for name, reason in parity.get("not_asked", {}).items():
        screen.print(f"{name} was not asked: {reason}", highlight=False, style="dim")


def _push(run: "Run", repository: str, *, gguf: bool, public: bool, dry_run: bool, quiet: bool) -> dict[str, Any]:
    """Upload the release, or say what would be uploaded."""
    from luthier.pipeline.words import size
    from luthier.release import hub

    found = run.artifact("release")
    found.verify()
    files = hub.uploads(found.folder, gguf=gguf)
    listed = [{"name": file.name, "bytes": file.size} for file in files]
    body: dict[str, Any] = {"repository": repository, "private": not public, "files": listed, "dry_run": dry_run}
    screen = console(out=True)
    if not quiet:
        for file in files:
            screen.print(f"{size(file.size):>9}  {file.name}")
        total, seen = sum(file.size for file in files), "public" if public else "private"
        screen.print(f"{size(total):>9}  {len(files)} files for {repository}, {seen}")
    if dry_run:
        if not quiet:
            screen.print("nothing was sent")
        return body
    done = hub.push(files, repository, public=public, message=f"Release of {run.name}", quiet=quiet)
    if not quiet:
        screen.print(done.page if done.changed else f"{done.page} has all of it already")
    return body | {"url": done.page, "commit": done.commit, "changed": done.changed}
