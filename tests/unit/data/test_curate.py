"""Curating: the ledger, the facts, the order of the rules, and when it stops."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.data import rendering
from luthier.errors import DataError, RecipeError, TemplateError
from luthier.text import TrainingRow, load_rows
from luthier.types import Example

Asked = Callable[[int], list[dict[str, str]]]

BROKEN: dict[str, Any] = {
    "not_json": b'{"question": "hal',
    "not_utf8": b'{"question": "\xff"}',
    "not_object": [1],
    "unknown_shape": {"ticket": "x"},
    "wrong_type": {"question": 1, "answer": "x"},
    "unknown_role": {"messages": [{"role": "pirate", "content": "x"}]},
    "bad_role_order": {"messages": [{"role": "assistant", "content": "x"}]},
    "no_answer": {"messages": [{"role": "user", "content": "x"}]},
    "empty_answer": {"question": "x", "answer": ""},
    "empty_turn": {"question": "", "answer": "x"},
    "template": {"question": "x \ufdd0 y", "answer": "x"},
    "too_long": {"question": "x" * 900, "answer": "x" * 900},
}


def test_every_row_has_one_fate_and_the_totals_add_up(bench: Any, asked: Asked) -> None:
    good = asked(30)
    facts = bench.curate(*good, *BROKEN.values(), good[3], good[4], system="S")
    assert facts["read"] == len(bench.ledger) == 30 + len(BROKEN) + 2
    assert sum(facts["fates"].values()) == facts["read"]
    assert facts["fates"] == {"kept": 30, "duplicate": 2, **dict.fromkeys(sorted(BROKEN), 1)}
    assert list(facts["fates"])[:2] == ["kept", "duplicate"]
    assert facts["fates"] == dict(Counter(line["fate"] for line in bench.ledger))
    for line, fate in zip(bench.ledger[30:], [*BROKEN, "duplicate", "duplicate"], strict=True):
        assert (line["fate"], line["split"]) == (fate, None)
        assert line["reason"]
    assert facts["reasons"]["too_long"] == "rows.jsonl:42: 1832 tokens, the limit is 1000"
    assert set(facts["reasons"]) == {*BROKEN, "duplicate"}
    assert facts["train"]["rows"] + facts["validation"]["rows"] == 30
    assert facts["sources"] == [
        {
            "path": "rows.jsonl",
            "sha256": facts["sources"][0]["sha256"],
            "rows": 44,
            "kept": 30,
            "left_out": [],
            "unread": {},
        }
    ]
    assert (facts["context"], facts["system"], facts["replay"]) == (1000, True, None)
    assert facts == json.loads((bench.out / "facts.json").read_text())


def test_the_ledger_has_what_is_needed_to_find_the_row(bench: Any, asked: Asked) -> None:
    bench.curate(*asked(5), asked(1)[0])
    first, last = bench.ledger[0], bench.ledger[-1]
    assert set(first) == {
        "source", "line", "hash", "shape", "fate", "rule", "reason", "score", "duplicate_of", "split", "tokens",
        "trained", "risk", "note", "content", "fold", "unread",
    }  # fmt: skip
    assert (first["source"], first["line"], first["shape"], first["fate"], first["reason"]) == (
        "rows.jsonl", 1, "question_answer", "kept", ""
    )  # fmt: skip
    assert first["split"] in ("train", "validation")
    assert first["tokens"] > first["trained"] == len("It is 0.") + 1
    assert (last["fate"], last["reason"], last["duplicate_of"]) == ("duplicate", "same as rows.jsonl:1", "rows.jsonl:1")


@pytest.mark.parametrize("name", ["train", "validation"])
def test_text_and_tokens_lie_in_the_same_order(bench: Any, asked: Asked, name: str) -> None:
    facts = bench.curate(*asked(40), system="S", split={"validation": 0.3})
    examples = [Example.from_json(line) for line in bench.lines(f"{name}.jsonl")]
    rows = load_rows(bench.out / f"{name}.safetensors")
    assert len(rows) == len(examples) == facts[name]["rows"] > 0
    for i, example in enumerate(examples):
        assert [message.role for message in example.messages] == ["system", "user", "assistant"]
        whole = bench.tokenizer.decode(rows.row(i).ids)
        assert all(message.content in whole for message in example.messages)
        trained = [t for t, on in zip(rows.row(i).ids, rows.row(i).trained, strict=True) if on]
        assert bench.tokenizer.decode(trained) == example.messages[2].content + "<|im_end|>"
    assert facts[name]["tokens"] == int(rows.lengths.sum())
    assert facts[name]["longest"] == int(rows.lengths.max())
    assert facts[name]["trained_tokens"] == int(rows.trained.sum())
    placed = [(line["source"], line["line"]) for line in bench.ledger if line["split"] == name]
    assert placed == [(example.source, example.line) for example in examples]


def test_a_duplicate_is_the_same_conversation_in_whatever_shape(bench: Any, asked: Asked) -> None:
    same = [
        {"question": "Caf\u00e9 now?", "answer": "Yes, now."},
        {"instruction": " Cafe\u0301  now?", "output": "Yes,\nnow. "},
        {"messages": [{"role": "user", "content": "Caf\u00e9 now?"}, {"role": "assistant", "content": "Yes, now."}]},
    ]
    others = [
        {"question": "Caf\u00e9 now?", "answer": "No."},
        {"question": "Caf\u00e9 now?", "answer": "Yes, now.", "system": "Be kind."},
        {"text": "Caf\u00e9 now?"},
    ]
    bench.write(*same[1:], name="more.jsonl")
    bench.curate(same[0], *others, *asked(5), paths=("rows.jsonl", "more.jsonl", "rows.jsonl"))
    fates = [line["fate"] for line in bench.ledger]
    assert fates == ["kept"] * 9 + ["duplicate"] * 2 + ["duplicate"] * 9
    assert {line["duplicate_of"] for line in bench.ledger[9:11]} == {"rows.jsonl:1"}


def test_rows_with_one_prompt_never_straddle(bench: Any) -> None:
    bench.curate(*({"question": f"q {i % 12}", "answer": f"{i}"} for i in range(120)), split={"validation": 0.4})
    sides: dict[str, set[str]] = {}
    for name in ("train", "validation"):
        for line in bench.lines(f"{name}.jsonl"):
            sides.setdefault(line["messages"][0]["content"], set()).add(name)
    assert len(sides) == 12
    assert all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {"train", "validation"}


def test_adding_rows_moves_none(bench: Any, asked: Asked) -> None:
    bench.curate(*asked(60))
    before = {line["hash"]: line["split"] for line in bench.ledger}
    bench.curate({"question": "new?", "answer": "yes"}, *reversed(asked(200)))
    after = {line["hash"]: line["split"] for line in bench.ledger}
    assert before == {mark: after[mark] for mark in before}


def test_too_many_rejected_stops_after_the_ledger_is_written(bench: Any, asked: Asked) -> None:
    rows = [*asked(8), BROKEN["not_json"], BROKEN["empty_answer"], asked(1)[0]]
    with pytest.raises(DataError) as error:
        bench.curate(*rows, max_rejected=0.18)
    assert "2 of 11 rows (18.2%) cannot be used" in error.value.what
    assert "not_json 1, for example rows.jsonl:9: not JSON at column 14" in error.value.what
    assert "empty_answer 1, for example rows.jsonl:10: the answer in turn 2 is empty" in error.value.what
    assert error.value.fix is not None
    assert "data.max_rejected" in error.value.fix
    assert len(bench.ledger) == 11
    assert not (bench.out / "facts.json").exists()
    bench.curate(*rows, max_rejected=0.19)
    bench.curate(*asked(8), *asked(8), *asked(8), max_rejected=0.0)  # duplicates do not count


def test_nothing_kept_and_nothing_to_divide_stop(bench: Any) -> None:
    with pytest.raises(DataError, match="no row is left to train on"):
        bench.curate(*BROKEN.values())
    with pytest.raises(DataError, match="one distinct prompt"):
        bench.curate(*({"question": "q", "answer": str(i)} for i in range(5)))
    assert len(bench.ledger) == 5


def test_the_limit(bench: Any, asked: Asked) -> None:
    assert bench.curate(*asked(5), max_length=200)["context"] == 200
    with pytest.raises(RecipeError, match=r"data\.max_length is 2000, but the model's context is 1000"):
        bench.curate(*asked(5), max_length=2000)
    for long in ("x" * 1000, "x" * 10_000_000):  # the second is not even tokenised
        rows = [*asked(5), {"question": long, "answer": "a"}]
        assert bench.curate(*rows)["fates"] == {"kept": 5, "too_long": 1}
        with pytest.raises(DataError, match=r"^rows.jsonl:6: .* the limit"):
            bench.curate(*rows, too_long="error")
        assert [line["fate"] for line in bench.ledger] == [*["kept"] * 5, "too_long"]  # it says which ones are to mend


def test_a_row_may_be_as_long_as_the_limit(bench: Any, asked: Asked) -> None:
    bench.curate(*asked(5))
    longest = bench.ledger[0]["tokens"]
    assert bench.curate(*asked(5), max_length=longest)["fates"] == {"kept": 5}
    with pytest.raises(DataError, match="too_long 5"):
        bench.curate(*asked(5), max_length=longest - 1)


def test_refusals_of_the_renderer_are_fates(bench: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(examples: list[Example], _: object, **__: object) -> list[list[TrainingRow] | TemplateError]:
        made = [TrainingRow([1, 2], [False, "What is 1?" not in example.messages[0].content]) for example in examples]
        return [
            TemplateError("no such role") if "What is 0?" in example.messages[0].content else [row]
            for example, row in zip(examples, made, strict=True)
        ]

    monkeypatch.setattr(rendering, "render_batch", render)
    facts = bench.curate(*asked(6))
    assert facts["fates"] == {"kept": 4, "nothing_trained": 1, "template": 1}
    assert facts["reasons"]["template"] == "rows.jsonl:1: no such role"


def test_rendering_goes_in_batches(bench: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    render = rendering.render_batch
    monkeypatch.setattr(
        rendering, "render_batch", lambda rows, t, **more: sizes.append(len(rows)) or render(rows, t, **more)
    )  # type: ignore[func-returns-value]
    monkeypatch.setattr(rendering, "BATCH", 8)
    assert bench.curate(*asked(20))["fates"] == {"kept": 20}
    assert sizes == [8, 8, 4]
    monkeypatch.setattr(rendering, "BATCH_LETTERS", 60)
    sizes.clear()
    assert bench.curate(*asked(10))["fates"] == {"kept": 10}
    assert max(sizes) < 5


def test_replay_is_counted_by_itself(bench: Any, asked: Asked) -> None:
    bench.curate(*asked(30), system="S")
    held = next(line["messages"][1]["content"] for line in bench.lines("validation.jsonl"))
    general = [{"question": f"Other {i}?", "answer": "yes"} for i in range(9)]
    bench.write(*general, general[0], b"{", {"question": held, "answer": "z"}, {"text": "x" * 1100}, name="more.jsonl")
    facts = bench.curate(*asked(30), system="S", too_long="error", replay={"path": "more.jsonl"})
    assert facts["read"] == len(bench.ledger) == 30
    replay = facts["replay"]
    assert replay["fates"] == {"kept": 9, "duplicate": 1, "held_out": 1, "not_json": 1, "too_long": 1}
    assert (replay["path"], replay["read"], replay["rows"]) == ("more.jsonl", 13, 9)
    rows = load_rows(bench.out / "replay.safetensors")
    assert len(rows) == 9
    assert replay["tokens"] == int(rows.lengths.sum())
    assert "system" not in bench.tokenizer.decode(rows.row(0).ids)


def test_replay_rows_with_a_held_out_twin_are_left_out(bench: Any) -> None:
    story = (
        "Once there was a keeper who walked down number {} to the water and saw {} boats with torn red sails that came"
    )
    rows = [
        {"question": f"Tell me story {i}", "answer": story.format(i, i * 7) + f" from {i} isles"} for i in range(30)
    ]
    bench.curate(*rows)
    held = bench.lines("validation.jsonl")[0]["messages"]
    twin = {"question": "Please, " + held[0]["content"], "answer": held[1]["content"]}
    bench.write(twin, {"question": "Anything else?", "answer": "Nothing."}, name="more.jsonl")
    facts = bench.curate(*rows, replay={"path": "more.jsonl"})
    assert facts["replay"]["fates"] == {"kept": 1, "held_out": 1}
    assert "a twin is held out: rows.jsonl:" in facts["replay"]["reasons"]["held_out"]


def test_replay_without_a_usable_row_stops(bench: Any, asked: Asked) -> None:
    bench.write(b"{", name="more.jsonl")
    with pytest.raises(DataError, match=r"more\.jsonl:1"):
        bench.curate(*asked(30), replay={"path": "more.jsonl"})


def test_the_bundled_replay(bench: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench.write(*asked(3), name="own.jsonl")
    monkeypatch.setattr("luthier.models.base.ukulele_file", lambda _: tmp_path / "own.jsonl")
    rows = [{"question": f"Other {i}?", "answer": "yes"} for i in range(9)]
    assert bench.curate(*rows, replay={"path": "ukulele"})["replay"]["rows"] == 3
