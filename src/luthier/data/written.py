"""Rows of a dataset artifact by their place. Only those are parsed: the others are a million at times."""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from luthier.data.split import SIDES
from luthier.types import Json

_PLACE = re.compile(rb'\{"source": ?("(?:[^"\\]|\\.)*"), ?"line": ?(\d+)')
"""How a line begins, as `write_side` has it."""


def rows_at(
    folder: Path, places: Collection[tuple[str, int]], sides: Iterable[str] = SIDES
) -> dict[tuple[str, int], Json]:
    """What the rows at these places hold, each a source and a line, as far as they are on one of the sides."""
    wanted = {(json.dumps(source, ensure_ascii=False).encode(), b"%d" % line) for source, line in places}
    found: dict[tuple[str, int], Json] = {}
    for path in (folder / f"{side}.jsonl" for side in sides):
        if not path.exists():
            continue
        with path.open("rb") as file:
            for line in file:
                begin = _PLACE.match(line)
                if begin is None or begin.groups() in wanted:
                    row = json.loads(line)
                    if (row["source"], row["line"]) in places:
                        found[row["source"], row["line"]] = row
    return found
