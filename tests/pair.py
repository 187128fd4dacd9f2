"""Several jobs on one group of two processes: `python pair.py FOLDER`, once for each RANK.

`FOLDER/*.job` are jobs as `launch` writes them down, with the step to die at (or null); each leaves `<name>.jsonl`.
"""

import json
import os
import sys
from pathlib import Path

from luthier import events
from luthier.models.load import quiet
from luthier.train.fit import fit
from luthier.train.launch import _from_json
from luthier.train.parallel import Parallel, join


class Death(BaseException):
    """The run ends here."""


def main() -> None:
    """Run all jobs in the order of their names."""
    quiet()
    alone = join("ddp")
    for path in sorted(Path(sys.argv[1]).glob("*.job")):
        content = json.loads(path.read_text())
        die_at = content.pop("die_at")
        job = _from_json(content)

        def watch(step: events.Step, _: int, at: int | None = die_at) -> None:
            if step.step == at:
                raise Death

        log = events.Log(path.with_suffix(".jsonl") if alone.first else Path(os.devnull))
        parallel = Parallel(job.plan["parallel"], alone.rank, alone.world)
        try:
            fit(job, job.base.tokenizer(), log, watch, parallel)
        except Death:
            continue


if __name__ == "__main__":
    main()
