"""Shapes: recognised without configuration, content kept byte for byte, every refusal with its reason."""

from typing import Any, get_args

import pytest

from luthier.data import SHAPES, RawRow, convert
from luthier.recipe.data import Shape
from luthier.types import Example, Fate

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def read(value: Any, shape: str = "auto", system: str | None = None) -> tuple[str | None, Example | Fate]:
    return convert(RawRow("f.jsonl", 7, value, None, ""), shape, system)


def turns(value: Any, shape: str = "auto", system: str | None = None) -> list[tuple[str, str]]:
    found = read(value, shape, system)[1]
    assert isinstance(found, Example), found
    assert found.where == "f.jsonl:7"
    return [(message.role, message.content) for message in found.messages]


def test_the_table_and_the_recipe_know_the_same_shapes() -> None:
    assert {*SHAPES, "auto"} == set(get_args(Shape))


PLAIN = [("user", "Hi"), ("assistant", "Hello")]
WITH_SYSTEM = [("system", "Be kind."), *PLAIN]


@pytest.mark.parametrize(
    ("shape", "row", "expected"),
    [
        ("messages", {"messages": [USER, ANSWER]}, PLAIN),
        ("messages", {"messages": [turn("system", "Be kind."), USER, ANSWER]}, WITH_SYSTEM),
        ("messages", {"system": "Be kind.", "messages": [USER, ANSWER]}, WITH_SYSTEM),
        ("messages", {"messages": [turn("Human", "Hi"), turn("bot", "Hello")], "text": "other"}, PLAIN),
        ("messages", {"messages": [turn("user", [part("H"), part("i")]), ANSWER]}, PLAIN),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, PLAIN),
        ("sharegpt", {"conversations": [{"from": "user", "value": "Hi"}, {"from": "model", "value": "Hello"}],
                      "system": "Be kind."}, WITH_SYSTEM),
        ("sharegpt", {"conversations": [USER, ANSWER], "system": " "}, PLAIN),
        ("alpaca", {"instruction": "Hi", "output": "Hello"}, PLAIN),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello", "system": "Be kind."}, WITH_SYSTEM),
        ("alpaca", {"instruction": "Hi", "input": "you", "output": "Hello"}, [("user", "Hi\n\nyou"), PLAIN[1]]),
        ("alpaca", {"instruction": "Hi", "context": "you", "response": "Hello"}, [("user", "Hi\n\nyou"), PLAIN[1]]),
        ("alpaca", {"instruction": "", "input": "Hi", "output": "Hello"}, PLAIN),
        ("alpaca", {"instruction": "Hi", "output": "Hello", "history": [["a", "b"]]},
         [("user", "a"), ("assistant", "b"), *PLAIN]),
        ("prompt_completion", {"prompt": "Hi", "completion": "Hello"}, PLAIN),
        ("prompt_completion", {"prompt": [turn("system", "Be kind."), USER], "completion": [ANSWER]}, WITH_SYSTEM),
        ("prompt_completion", {"question": "Hi", "response": "Hello", "messages": None}, PLAIN),
        ("prompt_completion", {"input": "Hi", "output": "Hello"}, PLAIN),
        ("question_answer", {"question": "Hi", "answer": "Hello", "id": 3}, PLAIN),
    ],
)  # fmt: skip
def test_shapes_are_recognised(shape: str, row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert read(row)[0] == shape
    assert turns(row) == expected
    assert turns(row, shape) == expected


def test_plain_text() -> None:
    assert read({"text": " a\n"}) == ("text", Example("f.jsonl", 7, text=" a\n"))
    assert read({"text": " a\n"}, system="S") == ("text", Example("f.jsonl", 7, text=" a\n"))


def test_a_forced_shape_wins() -> None:
    row = {"question": "Hi", "answer": "Hello", "text": "T"}
    assert read(row)[0] == "question_answer"
    assert read(row, "text") == ("text", Example("f.jsonl", 7, text="T"))
    name, fate = read({"question": "Hi", "answer": "Hello"}, "alpaca")
    assert name is None
    assert fate == Fate(
        "unknown_shape",
        "not the shape 'alpaca', which needs 'instruction' and 'output' or 'response'; keys: 'question', 'answer'",
    )


def test_content_is_kept_byte_for_byte() -> None:
    odd = " \ta\r\n\u00a0e\u0301 "
    assert turns({"question": odd, "answer": odd}) == [("user", odd), ("assistant", odd)]


def test_the_recipes_system_goes_before_rows_without_one() -> None:
    assert turns({"messages": [USER, ANSWER]}, system="S") == [("system", "S"), *PLAIN]
    assert turns({"messages": [turn("system", "Be kind."), USER, ANSWER]}, system="S") == WITH_SYSTEM


@pytest.mark.parametrize(
    ("row", "fate", "reason"),
    [
        ({}, "unknown_shape", "the object is empty"),
        ({"a": 1, "messages": None}, "unknown_shape", "no known shape; keys: 'a', 'messages'"),
        ({f"k{i}": 0 for i in range(100)}, "unknown_shape", "'k7' and 92 more"),
        ({"messages": "Hi"}, "wrong_type", "'messages' is a JSON text where a list of turns was expected"),
        ({"messages": ["Hi"]}, "wrong_type", "'messages[0]' is a JSON text"),
        ({"messages": [USER, turn("assistant", 3)]}, "wrong_type", "'messages[1].content' is a JSON number"),
        ({"messages": [USER, {"role": "assistant"}]}, "wrong_type", "'messages[1]' has no 'content' or 'value'"),
        ({"messages": [turn(1, "Hi")]}, "wrong_type", "'messages[0].role' is a JSON number"),  # type: ignore[arg-type]
        ({"messages": [turn("user", [{"type": "image_url"}]), ANSWER]}, "wrong_type", "part of type 'image_url'"),
        ({"messages": [turn("user", ["Hi"]), ANSWER]}, "wrong_type", "'messages[0].content[0]' is a JSON text"),
        ({"question": "Hi", "answer": ["a", "b"]}, "wrong_type", "'answer[0]' is a JSON text"),
        ({"question": "Hi", "answer": 42}, "wrong_type", "'answer' is a JSON number where a text was expected"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "wrong_type", "'history[0]' is not a pair"),
        ({"instruction": "a", "output": "b", "history": "x"}, "wrong_type", "'history' is a JSON text"),
        ({"question": "a", "answer": "b", "system": {}}, "wrong_type", "'system' is a JSON object"),
        ({"text": False}, "wrong_type", "'text' is a JSON false"),
        (
            {"messages": [turn("user", "x"), ANSWER | {"tool_calls": [{"id": "1"}]}]},
            "unsupported",
            "'messages[1]' has 'tool_calls'",
        ),
        ({"messages": [turn("user", "x"), ANSWER | {"weight": 0}]}, "unsupported", "'messages[1]' has 'weight'"),
        ({"messages": [turn("tool", "x"), ANSWER]}, "unknown_role", "'messages[0].role' is 'tool'; known: system"),
        ({"messages": []}, "no_answer", "no turns"),
        ({"messages": [USER]}, "no_answer", "turn 1 is 'user'"),
        ({"messages": [turn("system", "S")]}, "no_answer", "turn 1 is 'system'"),
        ({"messages": [USER, ANSWER, USER]}, "no_answer", "turn 3 is 'user'"),
        ({"messages": [USER, USER, ANSWER]}, "bad_role_order", "turns 1 and 2 are both 'user'"),
        ({"messages": [turn("system", "S"), USER, ANSWER, ANSWER]}, "bad_role_order",
         "turns 3 and 4 are both 'assistant'"),
        ({"messages": [ANSWER, USER]}, "bad_role_order", "turn 1 is 'assistant'; the user speaks first"),
        ({"messages": [USER, turn("system", "S"), ANSWER]}, "bad_role_order", "turn 2 is 'system'"),
        ({"question": "Hi", "answer": " \n"}, "empty_answer", "the answer in turn 2 is empty"),
        ({"messages": [USER, turn("assistant", ""), USER, ANSWER]}, "empty_answer", "turn 2"),
        ({"question": "\t", "answer": "Hello"}, "empty_turn", "turn 1 ('user') is empty"),
        ({"messages": [turn("system", " "), USER, ANSWER]}, "empty_turn", "turn 1 ('system') is empty"),
        ({"text": "  "}, "empty_turn", "the text is empty"),
    ],
)  # fmt: skip
def test_each_refusal_says_why(row: dict[str, Any], fate: str, reason: str) -> None:
    found = read(row)[1]
    assert isinstance(found, Fate)
    assert found.name == fate
    assert reason in found.reason


def test_reasons_stay_short() -> None:
    for row in ({"k" * 10**6 + str(i): 0 for i in range(20)}, {"messages": [turn("r" * 10**6, "x")]}):
        found = read(row)[1]
        assert isinstance(found, Fate)
        assert len(found.reason) < 500


def test_a_problem_of_the_reader_stays_the_fate() -> None:
    fate = Fate("not_json", "why")
    assert convert(RawRow("f", 1, None, fate, "")) == (None, fate)
