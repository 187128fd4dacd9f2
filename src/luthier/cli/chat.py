"""`luthier chat`: talk to a run's model."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from luthier.cli.console import RUNS, AsJson, RunName, Runs, console, document, put


def chat(
    run: RunName = "last",
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask this one thing and leave.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model instead, to compare.")] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Talk to the released model, or to the tuned one where nothing is released."""
    from luthier.errors import RecipeError
    from luthier.pipeline.conversation import Conversation
    from luthier.runs import find_run

    found = find_run(run, runs)
    if as_json and message is None:
        raise RecipeError("--json needs --message", fix=f"luthier chat {found.name} --json -m 'hello'")
    talk = Conversation(found, base=base)
    if message is not None:
        answer = talk.ask(message)
        if as_json:
            put(document(found, answer=answer.text, stopped=answer.stopped, model=str(talk.folder)))
        else:
            print(answer.text)
        return
    screen = console(out=True)
    screen.print(f"[dim]{talk.what}: {talk.folder}\nan empty line or Ctrl-D leaves, /new starts over[/]")
    for line in _lines():
        if line == "/new":
            talk.forget()
            continue
        answer = talk.ask(line)
        print(answer.text)
        if not answer.stopped:
            screen.print("[yellow]the answer was cut: the model did not end it[/]")


def _lines() -> Iterator[str]:
    """What the user types, until an empty line or the end of the input."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
