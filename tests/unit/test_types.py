"""The shared nouns go through JSON unchanged, and carry only what they have."""

import json

import pytest

from luthier.types import Example, Message, Pair

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TURNS = (
    Message("user", "1 + 2?"),
    Message("assistant", "", reasoning="a sum", tool_calls=(CALL,), train=False),
    Message("tool", "3", tool_call_id="c1", name="add"),
    Message("assistant", "3"),
)
TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {}}},)


@pytest.mark.parametrize(
    "noun",
    [
        Example("f", 1, TURNS, tools=TOOLS, rating=-1.0),
        Example("f", 2, text="plain"),
        Pair("f", 3, TURNS[:1], TURNS[3:], TURNS[1:2], TOOLS, 0.5),
    ],
)
def test_what_is_written_is_read_back(noun: Example | Pair) -> None:
    assert type(noun).from_json(json.loads(json.dumps(noun.to_json()))) == noun
    assert hash(noun) == hash(type(noun).from_json(noun.to_json()))


def test_a_turn_carries_only_what_it_has() -> None:
    assert Message("user", "hi").to_json() == {"role": "user", "content": "hi"}
