"""Work on rows is remembered by content; pairs, ratings and weights as token rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import example, given
from hypothesis import strategies as st

from luthier.data import shard
from luthier.data.memory import KEPT_MEMORIES, Memory, packed
from luthier.data.outcome import Outcome, Workshop
from luthier.data.packing import at_place, pack_content, pack_json, pack_rows, unpack_rows
from luthier.text import TrainingRow, load_rows
from luthier.types import KEPT, Example, Pair

Asked = Callable[[int], list[dict[str, str]]]
ALONE = {"near_duplicates": None}


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each shard was worked on."""
    counts: list[int] = []
    work = Workshop.work

    def counted(self: Workshop, rows: Any, reading: Any) -> Any:
        counts.append(len(rows))
        return work(self, rows, reading)

    monkeypatch.setattr(Workshop, "work", counted)
    return counts


def result(bench: Any) -> list[bytes]:
    return [(bench.out / name).read_bytes() for name in ("ledger.jsonl", "train.jsonl", "train.safetensors")]


def test_only_new_rows_are_worked_on(bench: Any, asked: Asked, worked: list[int], tmp_path: Path) -> None:
    rows: list[Any] = [*asked(50), b"{", {"text": "x" * 2000}, asked(1)[0]]
    memory = tmp_path / "memory"
    bench.curate(*rows, memory=memory)
    assert sum(worked) == 52  # the second of two equal rows is none
    before = result(bench)
    bench.curate(*rows, memory=memory)
    assert sum(worked) == 52
    assert result(bench) == before
    new = [{"question": name, "answer": "a"} for name in ("first", "new")]
    bench.curate(new[0], *rows[:20], new[1], *rows[20:], memory=memory)
    assert sum(worked) == 54
    bench.curate(*rows, memory=memory, max_length=300)  # decided after what is remembered
    assert sum(worked) == 54
    with_memory = result(bench)
    bench.curate(*rows, max_length=300)
    assert result(bench) == with_memory


def test_other_settings_are_other_work(bench: Any, asked: Asked, worked: list[int], tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    forced = {"sources": [{"path": "rows.jsonl", "shape": "question_answer"}]}
    for data in ({}, {"system": "S"}, {"curate": ALONE}, forced):
        bench.curate(*asked(10), memory=memory, **data)
    assert worked == [10] * 4


@pytest.mark.parametrize("damage", ["garbage", "locked", "bodies"])
def test_a_memory_that_cannot_be_used_is_done_without(
    bench: Any, asked: Asked, worked: list[int], tmp_path: Path, damage: str
) -> None:
    memory = tmp_path / "memory"
    bench.curate(*asked(10), memory=memory)
    before = result(bench)
    (folder,) = (path for path in memory.iterdir() if path.is_dir())
    if damage == "garbage":
        (folder / "outcomes.sqlite").write_bytes(b"no database" * 1000)
    elif damage == "bodies":
        (folder / "bodies.bin").unlink()
    lock = FileLock(memory / f"{folder.name}.lock")
    if damage == "locked":
        lock.acquire()
    bench.curate(*asked(10), memory=memory)
    lock.release()
    assert result(bench) == before
    assert worked == [10, 10]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), part, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
@example({"half": "\ud800", "control": "\x00\x1f\x7f\u2028", "number": 1e20})
def test_content_is_packed_as_json_writes_it(body: dict[str, Any]) -> None:
    expected = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    assert pack_json(body) == expected.encode("utf-8", "surrogatepass")


ROWS = st.lists(st.lists(st.tuples(st.integers(0, 200_000), st.booleans()), max_size=12), min_size=1, max_size=4)


@given(ROWS)
@example([[(65_535, True)], [], [(0, False), (1, True)]])
def test_token_rows_are_packed_and_unpacked(made: list[list[tuple[int, bool]]]) -> None:
    rows = [TrainingRow([i for i, _ in row], [trained for _, trained in row]) for row in made]
    packed_rows = pack_rows(rows)
    assert unpack_rows(packed_rows) == [(np.array(row.ids, np.int32).tobytes(), bytes(row.trained)) for row in rows]
    tokens = sum(len(row.ids) for row in rows)
    if all(i < 1 << 16 for row in rows for i in row.ids):
        assert len(packed_rows) <= 12 + 4 * len(rows) + 4 * (tokens + 2) + 2 * tokens


def test_content_at_its_place_is_a_line() -> None:
    content = Example("", 0, text='of "source":"","line":0 a text \u2028')
    line = at_place(pack_content(content), 'a "b".jsonl', 7)
    assert json.loads(line) == {"source": 'a "b".jsonl', "line": 7, "text": content.text}
    assert Example.from_json(json.loads(line)).line == 7


def test_an_index_is_made_when_a_new_memory_is_closed_or_else_when_it_is_opened(tmp_path: Path) -> None:
    keys = [bytes([k]) * 16 for k in range(3)]
    memory = Memory(tmp_path)
    told = {"rule": "r", "note": "half \ud800", "risk": 0.25, "mark": b"m" * 16, "place": 2**63 - 1, "moment": 1e20}
    made = memory.keep(keys, packed([Outcome("text", KEPT, content=bytes([k]), **told) for k in range(3)]))
    assert memory.look_up(keys) == {}  # what this time has made is not looked for
    again = Memory(tmp_path)  # as after a kill: the first one was never closed
    assert again.look_up(keys) == made
    assert [again.body(found.at, found.content) for found in again.look_up(keys).values()] == [b"\0", b"\1", b"\2"]
    again.close()
    memory.close()


def test_old_memories_are_forgotten(bench: Any, asked: Asked, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    for seed in range(KEPT_MEMORIES + 3):
        bench.curate(*asked(5), memory=memory, seed=seed)
    assert sum(path.is_dir() for path in memory.iterdir()) == KEPT_MEMORIES


def test_nothing_of_the_work_is_left_behind(bench: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.curate(*asked(10))
    names = {path.name for path in bench.out.iterdir()}
    sides = {f"{side}.{kind}" for side in ("train", "validation") for kind in ("jsonl", "safetensors")}
    assert names == {"README.md", "facts.json", "ledger.jsonl", "failures.jsonl", "funnel.svg", *sides}
    monkeypatch.setattr(shard, "ROWS", 3)  # however rows are parted, the result is the same
    before = result(bench)
    bench.curate(*asked(10))
    assert result(bench) == before


def test_pairs_lie_interleaved_with_their_margins(bench: Any) -> None:
    rows = [{"prompt": f"q {i}", "chosen": f"yes {i}", "rejected": "no", "margin": i / 2} for i in range(40)]
    rows.append({"prompt": "q", "completion": "a"})
    facts = bench.curate(*rows, curate=ALONE, objective={"kind": "dpo"})
    assert facts["fates"] == {"kept": 40, "no_pair": 1}
    assert facts["rows"] == "pairs"
    for side in ("train", "validation"):
        pairs = [Pair.from_json(line) for line in bench.lines(f"{side}.jsonl")]
        tokens = load_rows(bench.out / f"{side}.safetensors")
        assert len(tokens) == 2 * len(pairs) == 2 * facts[side]["rows"] == facts[side]["token_rows"]
        assert tokens.ratings is not None
        for i, pair in enumerate(pairs):
            for row, answer in ((2 * i, pair.chosen), (2 * i + 1, pair.rejected)):
                found = tokens.row(row)
                trained = [t for t, on in zip(found.ids, found.trained, strict=True) if on]
                assert bench.tokenizer.decode(trained) == answer[0].content + "<|im_end|>"
            assert tokens.ratings[2 * i] - tokens.ratings[2 * i + 1] == pair.margin


def test_rated_answers_keep_their_ratings(bench: Any) -> None:
    rows = [{"prompt": f"q {i}", "completion": "a", "label": i % 2 == 0} for i in range(40)]
    bench.curate(*rows, curate=ALONE, objective={"kind": "kto"})
    tokens = load_rows(bench.out / "train.safetensors")
    given = [line["rating"] for line in bench.lines("train.jsonl")]
    assert tokens.ratings is not None
    assert tokens.ratings.tolist() == given
    assert set(given) == {1.0, -1.0}


def test_weights_repeat_and_draw(bench: Any, asked: Asked) -> None:
    bench.write(*({"question": f"Other {i}", "answer": "b"} for i in range(200)), name="more.jsonl")
    sources = [{"path": "rows.jsonl", "weight": 2.5}, {"path": "more.jsonl", "weight": 0.25}]
    facts = bench.curate(*asked(100), sources=sources, curate=ALONE)
    drawn = [line for line in bench.ledger if line["source"] == "more.jsonl" and line["fate"] == "kept"]
    assert 25 < len(drawn) < 80
    assert facts["fates"]["not_drawn"] == 200 - len(drawn)
    texts = bench.lines("train.jsonl")
    copies = facts["train"]["token_rows"] - sum(row["source"] == "more.jsonl" for row in texts)
    own = sum(row["source"] == "rows.jsonl" for row in texts)
    assert abs(copies / own - 2.5) < 0.2
    assert facts["validation"]["token_rows"] == facts["validation"]["rows"]
    assert json.loads((bench.out / "facts.json").read_text())["train"]["tokens"] == int(
        load_rows(bench.out / "train.safetensors").lengths.sum()
    )
