"""`luthier chat`: talk to a run's model, or to it and its base side by side."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.console import RUNS, AsJson, RunName, Runs, console, document, put

if TYPE_CHECKING:
    from luthier.pipeline.conversation import Conversation

COMMANDS = {
    "/compare": "the base model answers, too, side by side; again: it stops",
    "/system TEXT": "another system message, and a new conversation; without a text: show it",
    "/reset": "a new conversation",
    "/help": "this list",
    "/bye": "leave, as Ctrl-D does; Ctrl-C stops an answer",
}
_COMMAND = re.compile(r"/[a-z]+")
CUT = "the answer was cut: the model did not end it"


def chat(
    run: RunName = "last",
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask this one thing and leave.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model instead, to compare.")] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Talk to a run's model. The released one, or the tuned one where nothing is released."""
    from luthier.errors import RecipeError
    from luthier.runs import find_run

    found = find_run(run, runs)
    if as_json and message is None:
        raise RecipeError("--json needs --message", fix=f"luthier chat {found.name} --json -m 'hello'")
    with console().status("loading the model") if sys.stderr.isatty() else nullcontext():
        from luthier.pipeline.conversation import Conversation  # torch and all

        talk = Conversation(found, base=base)
    if message is not None:
        answer = talk.ask(message)
        if as_json:
            put(document(found, answer=answer.text, stopped=answer.stopped, model=str(talk.folder)))
        else:
            print(answer.text)
        return
    if sys.stdin.isatty():
        aside = console()
        aside.print(f"{found.name}: {talk.what}", style="bold")
        aside.print(f"{talk.folder}\n/compare asks the base model, too; /help lists the rest\n", style="dim")
    _Session(talk).hold()


class _Session:
    """What the user types, and what is shown for it."""

    def __init__(self, talk: "Conversation") -> None:
        self._talk = talk
        self._other: Conversation | None = None
        self._aside = console()

    def hold(self) -> None:
        """Go on until the end of what is typed or piped."""
        from luthier.errors import DataError

        for line in _lines():
            word, _, rest = line.partition(" ")
            try:
                if _COMMAND.fullmatch(word):
                    if word == "/bye":
                        return
                    self._command(word, rest.strip())
                elif self._other is None:
                    self._answer(line)
                else:
                    self._compare(line, self._other)
            except DataError as error:
                self._aside.print(f"{error.what}; {error.fix}", style="yellow")
            except KeyboardInterrupt:
                print()
                self._aside.print("stopped; this question and its answer are forgotten", style="dim")

    def _command(self, word: str, rest: str) -> None:
        if word == "/compare" and self._other is None:
            with self._aside.status("loading the base model") if sys.stderr.isatty() else nullcontext():
                self._other = self._talk.beside()
            self._aside.print("both answer from now on; /compare again stops it", style="dim")
        elif word == "/compare":
            self._other = None
            self._aside.print("the base model is silent again", style="dim")
        elif word == "/reset":
            self._each(lambda talk: talk.forget())
            self._note("a new conversation")
        elif word == "/system" and rest:
            self._each(lambda talk: setattr(talk, "system", rest))
            self._note("a new conversation with this system message")
        elif word == "/system":
            self._aside.print(self._talk.system or "no system message", style="dim")
        else:
            if word != "/help":
                self._aside.print(f"there is no command {word}", style="yellow")
            for name, what in COMMANDS.items():
                self._aside.print(f"  {name:<13} {what}", style="dim")

    def _each(self, change: "Callable[[Conversation], None]") -> None:
        for talk in (self._talk, self._other):
            if talk is not None:
                change(talk)

    def _note(self, text: str) -> None:
        if sys.stdin.isatty():
            self._aside.print(text, style="dim")

    def _answer(self, line: str) -> None:
        safe = _shown if sys.stdout.isatty() else str
        answer = self._talk.ask(line, lambda piece: print(safe(piece), end="", flush=True))
        print()
        if not answer.stopped:
            self._aside.print(CUT, style="yellow")
        self._note("")

    def _compare(self, line: str, other: "Conversation") -> None:
        """Both answers, in columns that fill up as they are written; one after the other where that cannot be seen."""
        names, said, cut = ("tuned", "base"), ["", ""], [False, False]
        talks = (self._talk, other)
        with _columns(names, said) as show:
            for k, talk in enumerate(talks):

                def add(piece: str, k: int = k) -> None:
                    said[k] += piece
                    show()

                try:
                    cut[k] = not talk.ask(line, add).stopped
                except BaseException:  # neither knows of a question that one of them did not answer
                    for answered in talks[:k]:
                        answered.take_back()
                    raise
        for name, text, short in zip(names, said, cut, strict=True):
            if not sys.stdout.isatty():
                print(f"{name}: {text}")
            if short:
                self._aside.print(f"{name}: {CUT}", style="yellow")


def _shown(text: str) -> str:
    from luthier.pipeline.words import visible

    return visible(text)


@contextmanager
def _columns(names: tuple[str, str], said: list[str]) -> Iterator[Callable[[], None]]:
    """Two columns on a terminal; what it gives draws them anew. While they grow their ends are shown, then all."""
    if not sys.stdout.isatty():
        yield lambda: None
        return
    from rich.live import Live

    screen = console(out=True)
    room = max(40, (screen.width // 2 - 6) * (screen.height - 5))
    try:
        with Live(console=screen, auto_refresh=False, transient=True) as live:
            yield lambda: live.update(_table(names, [text[-room:] for text in said]), refresh=True)
    finally:
        screen.print(_table(names, said))


def _table(names: tuple[str, str], said: list[str]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    texts = [Text(_shown(text), overflow="fold") for text in said]
    table.add_row(
        *(
            Panel(text, title=name, title_align="left", border_style=colour)
            for name, text, colour in zip(names, texts, ("green", "blue"), strict=True)
        )
    )
    return table


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
        except EOFError:
            if talking:
                print()
            return
        except KeyboardInterrupt:  # the line is thrown away, as a shell does it
            print("\n(Ctrl-D or /bye leaves)")
            continue
        if line:
            yield line
