"""Structure, length and phrases of answers: each rule has a row that breaks it and one that just does not."""

from typing import Any

import pytest

from luthier.data.boilerplate import Boilerplate, refusal
from luthier.data.length import Length, LengthOutliers
from luthier.data.step import PASS, Held, Row, Surroundings
from luthier.data.structure import Structure, code_blocks, json_fault
from luthier.recipe import curate
from luthier.types import Example, Message


def chat(question: str, answer: str, **more: Any) -> Row:
    return Row(Example("f", 1, (Message("user", question), Message("assistant", answer)), **more))


def structure(row: Row, **options: Any) -> Any:
    return Structure(curate.Structure(**options), Surroundings()).look(row)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1', '{"a": 1,}', '[{"a": 1}, {"b"]', '["a", "b"', '{"a": NaN1}', "  {\n \"a\": 'b'}", '{"a": "' + "[" * 9],
)
def test_json_that_does_not_parse_is_told(text: str) -> None:
    fate = structure(chat("q", text)).fate
    assert fate.name == "broken_json"
    assert "in turn 2: " in fate.reason
    assert "line 1 column" in fate.reason or "line 2 column" in fate.reason


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '{"a": 1}\nThat is it.',
        '{"a": 1}\n{"a": 2}',
        "{1, 2}",
        "[a, b)",
        "{{name}}",
        "[1] See there",
        "[link](url)",
        "",
    ],
)
def test_what_is_json_or_not_meant_to_be_passes(text: str) -> None:
    assert json_fault(text) is None
    assert structure(chat("q", text)) is PASS


def test_deep_nesting_is_a_fault_and_no_crash() -> None:
    assert json_fault('[["' + "x" + '", ' + "[" * 100_000) is not None


def test_code_blocks_are_those_of_markdown() -> None:
    text = "a\n```python\nx = 1\n```\n~~~~\n```\n~~~\n~~~~\n````md\n```\n````\n```json\n{}"
    assert list(code_blocks(text)) == [
        ("python", "\nx = 1\n"),
        ("", "\n```\n~~~\n"),
        ("md", "\n```\n"),
        ("json", None),
    ]


def test_an_open_block_is_looked_at_and_a_closed_one_passes() -> None:
    assert structure(chat("q", "```\nx")).note == "a code block in turn 2 is never closed"
    assert structure(chat("q", "```\nx\n```")) is PASS
    assert structure(chat("q", '```json\n{"a" 1}\n```')).note.startswith("a block in turn 2: Expecting")
    assert structure(chat("q", "```\nx"), open_fences="drop").fate.name == "open_fence"
    assert structure(chat("```\nx", "a")) is PASS
    assert structure(Row(Example("f", 1, text="```\nx"))) is PASS


def test_a_call_of_a_tool_that_is_not_defined() -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {}}}
    turns = (Message("user", "q"), Message("assistant", "", tool_calls=(call,)))
    other = ({"type": "function", "function": {"name": "look"}},)
    found = structure(Row(Example("f", 1, turns, tools=other)))
    assert (found.fate.name, found.fate.reason) == ("unknown_tool", "turn 2 calls 'find', not defined")
    assert structure(Row(Example("f", 1, turns, tools=({"name": "find"},)))) is PASS
    assert structure(Row(Example("f", 1, turns))) is PASS


def test_what_drops_a_row_is_said_before_what_is_looked_at() -> None:
    turns = (Message("user", "q"), Message("assistant", "```\n"), Message("user", "q"), Message("assistant", '{"a'))
    assert structure(Row(Example("f", 1, turns))).fate.name == "broken_json"


def length(row: Row, **options: Any) -> Any:
    return Length(curate.Length(**options), Surroundings()).look(row)


def test_bounds_in_words() -> None:
    row = chat("one two three", "four five")
    assert length(row, prompt_words=(3, 3), answer_words=(2, 2)) is PASS
    assert length(row, prompt_words=(4, None)).fate.reason == "the prompt has 3 words, at least 4 asked"
    assert length(row, answer_words=(1, 1)).fate.name == "too_many_words"
    assert length(Row(Example("f", 1, text="a b")), document_words=(3, None)).fate.score == 2


def outliers(rows: list[Row], **options: Any) -> list[Any]:
    step = LengthOutliers(curate.LengthOutliers(**options), Surroundings())
    return list(step.resolve(Held(step, rows)))


def test_an_answer_far_longer_than_the_others_of_its_source_is_looked_at() -> None:
    rows = [chat("q", "word " * (20 + i % 7)) for i in range(60)]
    assert not outliers(rows)
    (found,) = outliers([*rows, chat("q", "word " * 2000)])
    assert (found.row, found.fate) == (60, None)
    assert found.note == "10,000 letters, 115 are usual in its source"
    assert not outliers([*rows[:20], chat("q", "word " * 2000)])
    assert not outliers([*rows, *(Row(Example("g", i, text="x" * 10_000 + "y" * (i % 9 * 99))) for i in range(60))])


def boilerplate(row: Row, **options: Any) -> Any:
    return Boilerplate(curate.Boilerplate(**options), Surroundings()).look(row)


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("As an AI language model, I think so.", "it says 'as an ai language model'"),
        ("I was trained by OpenAI.", "it says 'trained by openai'"),
        ("Dear [Your Name], hello", "never filled in: '[Your Name]'"),
        ("Hello {{ name }}", "never filled in: '{{ name }}'"),
        (
            "I\u2019m sorry, but I can\u2019t do that.",
            "the answer refuses: 'I\u2019m sorry, but I can\u2019t do that.'",
        ),
    ],
)
def test_a_phrase_is_told_and_the_row_stays(answer: str, note: str) -> None:
    found = boilerplate(chat("q", answer))
    assert found.fate is None
    assert found.note == note


def test_a_phrase_can_drop_a_row_and_be_ones_own() -> None:
    assert boilerplate(chat("q", "I cannot help."), refusals="drop").fate.name == "refusal"
    assert (
        boilerplate(chat("q", "Brought to you by ACME."), further=["brought to YOU"], phrases="drop").fate is not None
    )
    assert boilerplate(chat("As an AI language model", "Good.")) is PASS
    assert boilerplate(Row(Example("f", 1, text="I'm sorry, but I can't."))) is PASS


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I can't help with that.", True),
        ("Unfortunately, I cannot say.", True),
        ("It is not appropriate to do so.", True),
        ("That is a good question. However, I cannot provide instructions for it.", True),
        ("You can't divide by zero.", False),
        ("She said: I cannot believe it!", False),
        ("Sure. " + "word " * 100 + "I cannot provide more.", False),
    ],
)
def test_refusals_are_told_by_how_they_begin(answer: str, refuses: bool) -> None:
    assert refusal(answer) is refuses
