"""The command `luthier`: verbs, and the one place where errors become sentences and exit codes.

Verbs are functions with light imports; what they need is imported when they run, so that `--help` answers at once.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from luthier.cli import (
    bench,
    chat,
    compare,
    curate,
    doctor,
    evaluate,
    gate,
    handover,
    init,
    inspect,
    plan,
    release,
    review,
    run,
    runs,
    serve,
    show,
    train,
)

if TYPE_CHECKING:
    from luthier.errors import LuthierError

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer brings its own copy of click from 0.26 on, so its errors are found through what Typer shows of it."""

app = typer.Typer(
    name="luthier",
    help="From raw rows and a pre-trained model to a released, specialised model, with proof at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (init.init, run.run, curate.curate, inspect.inspect, plan.plan, train.train, evaluate.evaluate, gate.gate):
    app.command()(verb)
app.command()(release.release)
app.command()(review.review)
app.command()(compare.compare)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(show.show)
app.command()(handover.handover)
app.command()(runs.runs)
app.command()(doctor.doctor)
app.command()(bench.bench)


def main() -> NoReturn:
    """Run the command line and leave with the exit code of `luthier.errors`."""
    from luthier.errors import Interrupted, LuthierError

    # Threads that wait for others must not spin: where another program wants the cores, too, training on a CPU would
    # run at a third of its speed. It counts only until torch is loaded, and whoever has set it knows better.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except LuthierError as error:
        _leave(error)
    except UsageError as error:
        _leave(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        _leave(Interrupted("stopped", fix="run the same command to go on"))
    except BrokenPipeError:
        _has_enough()
    except RuntimeError as error:  # while a class is being made, Python hides a Ctrl-C in one of these
        if isinstance(error.__cause__, KeyboardInterrupt):
            _leave(Interrupted("stopped", fix="run the same command to go on"))
        raise
    except SystemExit as left:  # Typer's form of a broken pipe
        if isinstance(left.__context__, BrokenPipeError):
            _has_enough()
        raise
    sys.exit(code if isinstance(code, int) else 0)


def _has_enough() -> NoReturn:
    """Leave in peace: whoever reads our output, `head` for example, has enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _leave(error: "LuthierError") -> NoReturn:
    from luthier.cli.console import say_error

    say_error(error, json_wanted="--json" in sys.argv)
    sys.exit(error.exit_code)


def _usage(error: Any) -> "LuthierError":
    """Typer's error as one of ours; no arguments at all ask for the help."""
    from luthier.errors import RecipeError

    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        sys.exit(0)
    command = error.ctx.command_path if error.ctx else "luthier"
    return RecipeError(error.format_message().rstrip("."), fix=f"{command} --help")
