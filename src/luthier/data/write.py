"""Writing the sides of a dataset: the rows as text and as tokens, in the same order."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from luthier.data.ledger import measure, write_json, write_lines
from luthier.data.shapes import UNWANTED
from luthier.data.table import KEPT, Table
from luthier.text import RowWriter
from luthier.types import Example, Json


def write_side(out: Path, name: str, table: Table, weights: Sequence[float]) -> dict[str, int]:
    """Write `<name>.jsonl` and `<name>.safetensors`; rows and tokens of that side.

    Rows of a source with a weight above 1 stand several times among the token rows of training, and once in the text.
    """
    where = f"{KEPT} AND side = '{name}'"
    write_lines(out / f"{name}.jsonl", table.lines(where))
    copies = _Copies(table, weights) if name == "train" else None
    with RowWriter(out / f"{name}.safetensors") as writer:
        for times, rating, rows in _token_rows(table, where, copies):
            for _ in range(times):
                for i, (ids, mask) in enumerate(rows):
                    writer.add_packed(ids, mask, rating if i == 0 else None)
    counted = measure(table, where)
    if copies and not copies.plain:
        counted |= {"tokens": writer.tokens, "trained_tokens": writer.trained}
    return counted | {"token_rows": writer.rows}


def write_failures(out: Path, table: Table) -> int:
    """Write `failures.jsonl`, the answers that people did not want; how many they are.

    Each line has `source` and `line` of the row, `rating` from -1 to below 0, `prompt` (the turns before the answer, as
    messages), `answer` (the unwanted turn), and `tools` where the row defines some. Rows that `secrets` or `pii` refuse
    are not among them; where those steps put placeholders, the placeholders are.
    """
    found = table.contents(f"fate = '{UNWANTED}' AND content > 0")
    return write_json(
        out / "failures.jsonl", (_failure(content) for _, content in found if isinstance(content, Example))
    )


def _failure(example: Example) -> Json:
    row: Json = {"source": example.source, "line": example.line, "rating": example.rating}
    *before, answer = (message.to_json() for message in example.messages)
    more: Json = {"tools": list(example.tools)} if example.tools else {}
    return row | {"prompt": before, "answer": answer} | more


def _token_rows(
    table: Table, where: str, copies: "_Copies | None"
) -> Iterator[tuple[int, float | None, list[tuple[bytes, bytes]]]]:
    for number, file, rating, rows in table.token_rows(where):
        yield copies.of(number, file) if copies else 1, rating, rows


class _Copies:
    """How often a row is written: its source's weight, rounded up or down by a hash of its content."""

    def __init__(self, table: Table, weights: Sequence[float]) -> None:
        self._table = table
        self._weights = array("d", weights)
        self.plain = all(weight <= 1 for weight in weights)

    def of(self, number: int, file: int) -> int:
        weight = self._weights[self._table.source_of(file)]
        whole = int(weight)
        if weight <= 1:
            return 1
        return whole + (draw(self._table, number) < weight - whole)


def draw(table: Table, number: int) -> float:
    """A number from 0 to 1 that depends on what stands in the row and on nothing else."""
    mark: bytes = table.sql("SELECT hash FROM rows WHERE n = ?", (number,)).fetchone()[0]
    return int.from_bytes(mark[-8:], "big") / 2**64
