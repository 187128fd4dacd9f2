"""Unwanted answers are kept as failures, and a refused curation leaves the ledger that says why."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from scenes import make_base, recipe, write_recipe, write_rows

from luthier.errors import DataError
from luthier.pipeline import run_recipe

SECRET = "AKIA" + "Q3EXMPLE7KEY2345"


def thumb(question: str, answer: str, rating: object = "down", **more: object) -> dict[str, object]:
    return {"question": question, "answer": answer, "rating": rating, **more}


def test_unwanted_answers_are_written_with_their_prompt(bench: Any, asked: Any) -> None:
    rows = [
        *asked(20),
        thumb("Why?", "Because I say so."),
        thumb("Good?", "Yes.", rating="up"),
        thumb("Whose?", "Mine.", edited="It is yours."),  # an edit makes it wanted
    ]
    facts = bench.curate(*rows)
    (line,) = bench.lines("failures.jsonl")
    assert line == {
        "source": "rows.jsonl",
        "line": 21,
        "rating": -1.0,
        "prompt": [{"role": "user", "content": "Why?"}],
        "answer": {"role": "assistant", "content": "Because I say so."},
    }
    assert facts["failures"] == facts["fates"]["unwanted"] == 1
    assert facts["train"]["rows"] + facts["validation"]["rows"] == 22


def test_ratings_on_a_scale_and_earlier_turns_are_part_of_a_failure(bench: Any, asked: Any) -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    bench.curate(*asked(20), {"messages": turns, "rating": 2}, sources=[{"path": "rows.jsonl", "scale": [1, 5]}])
    (line,) = bench.lines("failures.jsonl")
    assert line["rating"] == -0.5
    assert [*line["prompt"], line["answer"]] == turns


def test_failures_hold_no_secret_and_no_personal_data(bench: Any, asked: Any) -> None:
    rows = [
        *asked(20),
        thumb("Key?", f"aws_access_key_id = {SECRET}"),
        thumb("Mail?", "Write to jane.roe@example.org."),
    ]
    facts = bench.curate(*rows, curate={"pii": {"action": "replace"}})
    text = (bench.out / "failures.jsonl").read_text()
    assert facts["fates"]["unwanted"] == 2  # each row has its fate, whatever is written of it
    assert SECRET not in text
    assert "jane.roe" not in text
    assert "<EMAIL_1>" in text


def test_a_remembered_failure_is_written_again(bench: Any, asked: Any, tmp_path: Path) -> None:
    rows = [*asked(20), thumb("Why?", "Because I say so.")]
    bench.curate(*rows, memory=tmp_path / "memory")
    before = bench.lines("failures.jsonl")
    bench.curate({"question": "new", "answer": "row"}, *rows, memory=tmp_path / "memory")
    assert [line["line"] for line in bench.lines("failures.jsonl")] == [22]
    assert before[0] | {"line": 22} == bench.lines("failures.jsonl")[0]


def test_the_funnel_is_drawn_with_its_numbers(bench: Any, asked: Any) -> None:
    facts = bench.curate(*asked(40), b"{broken", *asked(3), thumb("Why <b>?", "So & so."))
    picture = ET.fromstring((bench.out / "funnel.svg").read_text())
    name = "{http://www.w3.org/2000/svg}"
    said = ["".join(text.itertext()) for text in picture.iter(f"{name}text")]
    assert f"{facts['fates']['kept']:,} are kept" in said[0]
    for part in facts["funnel"]:
        at = said.index(part["rule"].replace("_", " "))
        assert said[at + 1 : at + 3] == [f"{part['left']:,}", f"\N{MINUS SIGN}{part['rows']:,}"]
    widths = [float(bar.get("width")) for bar in picture.iter(f"{name}rect") if bar.get("class") == "left"]  # type: ignore[arg-type]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] / widths[0] == pytest.approx(facts["fates"]["kept"] / facts["read"], abs=0.002)
    assert "](funnel.svg)" in (bench.out / "README.md").read_text()


def test_a_refused_curation_names_a_ledger_that_can_be_opened(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    good = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(20)]
    rows = write_rows(tmp_path / "rows.jsonl", [*good, *({"nothing": f"known {i}"} for i in range(20))])
    path = write_recipe(tmp_path / "recipe.yaml", recipe(base, rows))
    with pytest.raises(DataError) as error:
        run_recipe(path, root=tmp_path / "runs", until="dataset")
    ledger = Path(str(error.value.fix).rsplit(": ", 1)[1])
    assert ledger.parent == error.value.run.folder
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["fate"] for line in lines] == ["kept"] * 20 + ["unknown_shape"] * 20
    run = run_recipe(path, ["data.max_rejected=0.6"], root=tmp_path / "runs", until="dataset")
    assert run.folder != ledger.parent  # another recipe, another run: the refused one stays to be looked at
    write_rows(rows, good)
    again = run_recipe(path, root=tmp_path / "runs", until="dataset")
    assert again.folder == ledger.parent
    assert not ledger.exists()
