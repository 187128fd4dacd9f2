"""A command that dies while it releases: `python killed_release.py MOMENT VERB ...`, MOMENT as `merge:3` or `gguf:5`.

`merge:3` dies amid the third tensor of the merged model, `gguf:5` amid the fifth of a GGUF file. The death is SIGKILL:
nothing can be tidied up.
"""

import os
import signal
import sys
from typing import Any

from luthier.cli.main import main
from luthier.release import merge
from luthier.release.gguf import write

WHERE = {"merge": (merge.ShardWriter, "write"), "gguf": (write, "packed")}


def die_at(place: Any, name: str, count: int) -> None:
    """End the process at this call of a function, by a signal that nobody can catch."""
    real, seen = getattr(place, name), 0

    def counted(*given: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)

    setattr(place, name, counted)


if __name__ == "__main__":
    kind, _, number = sys.argv[1].partition(":")
    die_at(*WHERE[kind], int(number))
    sys.argv[1:] = sys.argv[2:]
    main()
