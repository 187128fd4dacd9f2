"""What a model said, kept by (model, question, decoding): a second evaluation asks nothing twice, a killed one goes on.

One .jsonl file a model, appended to as answers come. Scores are not kept: they are cheap, and the scorer may change.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luthier.artifact import digest, disk_error, make_folder
from luthier.evaluate.items import Decoding, Item, Kind

Said = dict[str, Any]
"""What a model said to an item: `text`, `stopped` and `tokens`; or `logprobs`; or `nats`, `tokens` and `bytes`."""
VERSION = 1


def key_of(item: Item, kind: Kind, decoding: Decoding, sample: int = 0) -> str:
    """The key of one answer: all that it depends on besides the model, and nothing of how it will be scored."""
    asked: dict[str, Any] = {"version": VERSION, "kind": kind, "text": item.text, "sample": sample}
    asked["prompt"] = [message.to_json() for message in item.prompt]
    if kind == "choose":
        asked["choices"] = item.choices
    elif kind == "likelihood":
        asked["text"] = [item.text, item.expected]
    else:
        asked["decoding"] = {k: v for k, v in asdict(decoding).items() if k != "samples"}
    return digest(asked)[:32]


class Memory:
    """The answers of one model; without a folder they are remembered for as long as this object lives."""

    def __init__(self, folder: Path | None = None, model: str = "") -> None:
        self._path = folder / f"{digest(model)[:24]}.jsonl" if folder and model else None
        self._said: dict[str, Said] = {}
        if self._path and self._path.exists():
            with self._path.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        row = json.loads(line)
                        self._said[row.pop("key")] = row
                    except (ValueError, KeyError, AttributeError, TypeError):
                        continue  # torn by a crash: it is asked again

    def get(self, key: str) -> Said | None:
        """What was said, if it was asked before."""
        return self._said.get(key)

    def keep(self, said: Mapping[str, Said]) -> None:
        """Remember answers by key.

        Raises:
            Missing: the disk is full or cannot be written.
        """
        self._said |= said
        if self._path is None or not said:
            return
        make_folder(self._path.parent)
        lines = _lines(said.items())
        try:
            with self._path.open("ab", buffering=0) as file:  # one call, so that two writers do not mix theirs
                file.write(lines)
        except OSError as error:
            raise disk_error(self._path, error) from error


def _lines(said: Iterable[tuple[str, Said]]) -> bytes:
    text = "".join(json.dumps({"key": key, **row}, ensure_ascii=False) + "\n" for key, row in said)
    return ("\n" + text).encode("utf-8", "backslashreplace")  # the first sign ends a line that a crash tore
