"""The command `luthier`: verbs, and the one place where errors become sentences and exit codes.

Verbs are functions with light imports; what they need is imported when they run, so that `--help` answers at once.
"""

import sys
from typing import NoReturn

import click
import typer

from luthier.cli import chat, curate, doctor, evaluate, gate, init, plan, release, run, runs, show, train

app = typer.Typer(
    name="luthier",
    help="From raw rows and a pre-trained model to a released, specialised model, with proof at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (init.init, run.run, curate.curate, plan.plan, train.train, evaluate.evaluate, gate.gate, release.release):
    app.command()(verb)
app.command()(chat.chat)
app.command()(show.show)
app.command()(runs.runs)
app.command()(doctor.doctor)


def main() -> NoReturn:
    """Run the command line and leave with the exit code of `luthier.errors`."""
    from luthier.cli.console import say_error
    from luthier.errors import LuthierError

    json_wanted = "--json" in sys.argv
    try:
        code = app(standalone_mode=False)
    except LuthierError as error:
        say_error(error, json_wanted=json_wanted)
        sys.exit(error.exit_code)
    except click.ClickException as error:  # usage
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
