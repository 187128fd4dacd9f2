"""How much of the tokenizer's own speed is left when rows are rendered, tokenised and masked.

    python bench/text.py rows.jsonl [--base ukulele] [--rows 2000] [--repeats 7]

Arms, interleaved in one run, on the same texts: the tokenizer called as people call it; its Rust part alone; the
renderer. Single-turn rows of any shape that Luthier reads. Before a number counts, the ids of all arms are equal and
every row has trained tokens. `one_thread`: the processor's time of one thread, the least of all repeats: what else the
machine does changes it little. `all_cores`: wall time with all cores, the tokenizer's by its own threads and the
renderer's by processes as curation starts them, token rows sent back; that needs a quiet machine.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from luthier.data.outcome import pack_rows
from luthier.data.read import read_rows
from luthier.data.shapes import Reading, convert
from luthier.data.spread import Spread, cores
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
    batches = [examples[i : i + BATCH] for i in range(0, len(examples), BATCH)]

    def called() -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    def bare() -> list[list[int]]:
        return [found.ids for found in inner.encode_batch(texts, add_special_tokens=False)]

    def rendered() -> list[list[int]]:
        rows = [row for batch in batches for row in render_batch(batch, tokenizer)]
        assert all(isinstance(found, list) and len(found) == 1 and any(found[0].trained) for found in rows)
        return [found[0].ids for found in rows if isinstance(found, list)]

    arms: dict[str, Callable[[], object]] = {"tokenizer": called, "encode_batch": bare, "luthier": rendered}
    assert called() == bare() == rendered(), "the arms do not give the same ids"
    tokens = sum(map(len, bare()))
    body = {"rows": len(examples), "tokens_per_row": tokens / len(examples)}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    body["one_thread"] = _compare(arms, tokens, asked.repeats, time.process_time)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with Spread(_render, tokenizer, processes=cores()) as spread:
        spread._start()  # starting processes is not what is measured

        def spread_out() -> object:
            return [rows for _, rows in spread.map((None, batch, 0) for batch in batches)]

        spread_out()
        arms["luthier"] = spread_out
        body["all_cores"] = _compare(arms, tokens, asked.repeats, time.perf_counter)
    print(json.dumps(body, indent=1))


def _render(tokenizer: object, batch: list[Example]) -> list[bytes]:
    return [pack_rows(found) for found in render_batch(batch, tokenizer) if isinstance(found, list)]


def _compare(
    arms: dict[str, Callable[[], object]], tokens: int, repeats: int, clock: Callable[[], float]
) -> dict[str, object]:
    """The arms in turn, the least time of each, and what of the others' speed the renderer has."""
    least = dict.fromkeys(arms, float("inf"))
    for _ in range(repeats):
        for name, arm in arms.items():
            started = clock()
            arm()
            least[name] = min(least[name], clock() - started)
    return {
        "arms": [{"arm": name, "tokens_per_second": tokens / seconds} for name, seconds in least.items()],
        "share_of_tokenizer": least["tokenizer"] / least["luthier"],
        "share_of_encode_batch": least["encode_batch"] / least["luthier"],
    }


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
