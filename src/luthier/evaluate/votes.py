"""Blind A/B votes on disk: pairs of answers, and who preferred which. One SQLite file for the terminal and for pages.

Which answer stands left is drawn anew for every rater and pair; names and lengths are hidden. One pair in ten comes
again, to see whether a rater agrees with themselves. "Both bad" counts as a tie, and is counted.
"""

import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.artifact import digest
from luthier.errors import DataError, RecipeError
from luthier.evaluate.preference import Ballot, kappa

Choice = Literal["left", "right", "tie", "both bad"]
CHOICES: tuple[Choice, ...] = ("left", "right", "tie", "both bad")
REPEATS = 10
"""One pair in so many comes a second time."""
_TABLES = """
CREATE TABLE IF NOT EXISTS pairs (
  id TEXT PRIMARY KEY, prompt TEXT NOT NULL, first TEXT NOT NULL, first_text TEXT NOT NULL,
  second TEXT NOT NULL, second_text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS votes (
  pair TEXT NOT NULL REFERENCES pairs(id), rater TEXT NOT NULL, turn INTEGER NOT NULL, choice TEXT NOT NULL,
  swapped INTEGER NOT NULL, time REAL NOT NULL, PRIMARY KEY (pair, rater, turn));
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a rater sees: the prompt and two answers without names. `turn` is 1 for a pair that comes again."""

    pair: str
    prompt: str
    left: str
    right: str
    swapped: bool
    turn: int


class Votes:
    """The file of pairs and votes."""

    def __init__(self, path: Path) -> None:
        """Open or make it.

        Raises:
            DataError: the file is no such file.
        """
        self.path = path
        try:
            with self._open() as file:
                file.execute("PRAGMA journal_mode=WAL")
                file.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise DataError(f"not a file of votes: {error}", where=str(path), fix="choose another file") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as file, file:
            yield file

    def add(self, prompt: str, first: str, first_text: str, second: str, second_text: str) -> str:
        """Put up two answers to a prompt for comparison; the same pair once. Returns its id."""
        row = (prompt, first, first_text, second, second_text)
        pair = digest(row)[:16]
        with self._open() as file:
            file.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?, ?, ?, ?)", (pair, *row))
        return pair

    def next(self, rater: str, models: Sequence[str] = ()) -> Shown | None:
        """The next pair for a rater, in an order of their own; None when all are done.

        Args:
            rater: who votes.
            models: only pairs of these two.
        """
        with self._open() as file:
            pairs = file.execute("SELECT * FROM pairs").fetchall()
            done = {(p, t) for p, t in file.execute("SELECT pair, turn FROM votes WHERE rater = ?", (rater,))}
        wanted = [row for row in pairs if not models or {row[2], row[4]} == set(models)]
        order = sorted(wanted, key=lambda row: digest([rater, row[0]]))
        again = [row for row in order if int(digest([rater, row[0], "again"])[:8], 16) % REPEATS == 0]
        for turn, rows in ((0, order), (1, again)):
            for row in rows:
                if (row[0], turn) not in done:
                    return _shown(row, rater, turn)
        return None

    def vote(self, shown: Shown, rater: str, choice: str) -> None:
        """Write a vote down.

        Raises:
            RecipeError: there is no such choice.
        """
        if choice not in CHOICES:
            raise RecipeError(f"'{choice}' is no vote; votes are {', '.join(CHOICES)}", fix="choose one of these")
        row = (shown.pair, rater, shown.turn, choice, int(shown.swapped), time.time())
        with self._open() as file:
            file.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?, ?, ?)", row)

    def ballots(self) -> list[Ballot]:
        """Every first vote, by the names of the models."""
        return [_ballot(row) for row in self._rows() if row[6] == 0]

    def labels(self, first: str, second: str) -> list[tuple[str, str, str, str]]:
        """Every pair of two models with votes: prompt, the one's answer, the other's, and what most raters said.

        The label is `first`, `second` or `tie`; as many votes for either model make a tie.
        """
        points: dict[tuple[str, str, str], float] = {}
        for row in self._rows():
            if row[6] == 0 and {row[1], row[3]} == {first, second}:
                texts = (row[2], row[4]) if row[1] == first else (row[4], row[2])
                won = _winner(row)
                key = (row[0], *texts)
                points[key] = points.get(key, 0.0) + (won == first) - (won == second)
        return [(*key, "first" if x > 0 else "second" if x < 0 else "tie") for key, x in points.items()]

    def _rows(self) -> list[tuple[Any, ...]]:
        with self._open() as file:
            return file.execute(
                "SELECT p.prompt, p.first, p.first_text, p.second, p.second_text, v.rater, v.turn, v.choice, v.swapped "
                "FROM votes v JOIN pairs p ON p.id = v.pair ORDER BY v.time"
            ).fetchall()

    def summary(self) -> dict[str, Any]:
        """Counts of votes and of "both bad", how often each side of the screen won, and how raters agree.

        `self_agreement` is the share of repeated pairs on which a rater said the same; `kappa` that of two raters on
        the same pairs beyond chance, pooled over all pairs of raters.
        """
        rows = self._rows()
        first = [row for row in rows if row[6] == 0]
        said = {(row[0], row[1], row[3], row[5], row[6]): _winner(row) for row in rows}
        again = [(said[(*key[:4], 0)], value) for key, value in said.items() if key[4] == 1 and (*key[:4], 0) in said]
        by_pair: dict[Any, list[str]] = {}
        for key, value in said.items():
            if key[4] == 0:
                by_pair.setdefault(key[:3], []).append(value)
        both = [(a, b) for found in by_pair.values() for i, a in enumerate(found) for b in found[i + 1 :]]
        return {
            "votes": len(first),
            "raters": len({row[5] for row in rows}),
            "ties": sum(row[7] == "tie" for row in first),
            "both_bad": sum(row[7] == "both bad" for row in first),
            "left": sum(row[7] == "left" for row in first),
            "right": sum(row[7] == "right" for row in first),
            "self_agreement": sum(a == b for a, b in again) / len(again) if again else None,
            "kappa": kappa([a for a, _ in both], [b for _, b in both]) if both else None,
        }


def _shown(row: tuple[Any, ...], rater: str, turn: int) -> Shown:
    swapped = int(digest([rater, row[0], turn, "side"])[:8], 16) % 2 == 1
    left, right = (row[5], row[3]) if swapped else (row[3], row[5])
    return Shown(row[0], row[1], left, right, swapped, turn)


def _winner(row: tuple[Any, ...]) -> str:
    """The model that won, or what was said instead."""
    choice, swapped = row[7], bool(row[8])
    if choice not in ("left", "right"):
        return str(choice)
    return str(row[1] if (choice == "left") != swapped else row[3])


def _ballot(row: tuple[Any, ...]) -> Ballot:
    won = _winner(row)
    longer = math.log((len(row[2]) + 1) / (len(row[4]) + 1))
    return Ballot(row[1], row[3], won if won in (row[1], row[3]) else None, row[0], row[5], longer)
