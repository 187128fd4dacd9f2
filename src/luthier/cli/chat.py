"""`luthier chat`: talk to a run's model."""

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer

from luthier.cli.console import RUNS, AsJson, RunName, Runs, console, document, put

HELP = "/new starts over, Ctrl-C stops an answer, /bye or Ctrl-D leaves"


def chat(
    run: RunName = "last",
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask this one thing and leave.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model instead, to compare.")] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Talk to a run's model. The released one, or the tuned one where nothing is released."""
    from luthier.errors import DataError, RecipeError
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
    aside = console()
    if sys.stdin.isatty():
        aside.print(f"{talk.what}: {talk.folder}\n{HELP}", style="dim")
    for line in _lines():
        if line == "/new":
            talk.forget()
            continue
        try:
            answer = talk.ask(line, lambda piece: print(piece, end="", flush=True))
        except DataError as error:
            aside.print(f"{error.what}; {error.fix}", style="yellow")
            continue
        except KeyboardInterrupt:
            print()
            aside.print("stopped; this question and its answer are forgotten", style="dim")
            continue
        print()
        if not answer.stopped:
            aside.print("the answer was cut: the model did not end it", style="yellow")


def _lines() -> Iterator[str]:
    """What the user types or a pipe brings, without blank lines, until its end."""
    talking = sys.stdin.isatty()
    if talking:
        with suppress(ImportError):  # arrows and history, where Python has them
            import readline  # noqa: F401
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            line = input("> " if talking else "").strip()
        except (EOFError, KeyboardInterrupt):
            if talking:
                print()
            return
        if line == "/bye":
            return
        if line:
            yield line
