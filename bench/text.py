"""How much of the tokenizer's own speed is left when rows are rendered, tokenised and masked.

    python bench/text.py rows.jsonl [--base ukulele] [--rows 2000] [--repeats 7]

Arms, interleaved in one run, on the same texts: the tokenizer called as people call it; its Rust part alone; the
renderer. Single-turn rows of any shape that Luthier reads. Before a number counts, the ids of all arms are equal and
every row has trained tokens. Times are the processor's, of one thread, the least of all repeats: what else the machine
does changes them little. The result is one JSON document.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from luthier.data.read import read_rows
from luthier.data.shapes import Reading, convert
from luthier.models.base import find_base
from luthier.recipe import Model
from luthier.text import render_batch
from luthier.types import Example

BATCH = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--base", default="ukulele")
    parser.add_argument("--rows", dest="count", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    tokenizer = find_base(Model(base=asked.base)).tokenizer()
    examples = single_turns(asked.rows, asked.count)
    texts = [tokenizer.apply_chat_template([m.to_json() for m in e.messages], tokenize=False) for e in examples]
    inner = tokenizer.backend_tokenizer

    def called() -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    def bare() -> list[list[int]]:
        return [found.ids for found in inner.encode_batch(texts, add_special_tokens=False)]

    def rendered() -> list[list[int]]:
        rows = [row for i in range(0, len(examples), BATCH) for row in render_batch(examples[i : i + BATCH], tokenizer)]
        assert all(isinstance(found, list) and len(found) == 1 and any(found[0].trained) for found in rows)
        return [found[0].ids for found in rows if isinstance(found, list)]

    arms: dict[str, Callable[[], list[list[int]]]] = {"tokenizer": called, "encode_batch": bare, "luthier": rendered}
    results = {name: arm() for name, arm in arms.items()}
    assert results["tokenizer"] == results["encode_batch"] == results["luthier"], "the arms do not give the same ids"
    tokens = sum(map(len, results["luthier"]))
    least = dict.fromkeys(arms, float("inf"))
    for _ in range(asked.repeats):
        for name, arm in arms.items():
            started = time.process_time()
            arm()
            least[name] = min(least[name], time.process_time() - started)
    body = {
        "rows": len(examples),
        "tokens_per_row": tokens / len(examples),
        "arms": [{"arm": name, "tokens_per_second": tokens / seconds} for name, seconds in least.items()],
        "share_of_tokenizer": least["tokenizer"] / least["luthier"],
        "share_of_encode_batch": least["encode_batch"] / least["luthier"],
    }
    print(json.dumps(body, indent=1))


def single_turns(path: Path, count: int) -> list[Example]:
    """The first rows with one question and one answer."""
    found: list[Example] = []
    for row in read_rows(path, path.name):
        _, content = convert(row, Reading())
        if isinstance(content, Example) and len(content.messages) == 2:
            found.append(content)
        if len(found) == count:
            break
    return found


if __name__ == "__main__":
    main()
