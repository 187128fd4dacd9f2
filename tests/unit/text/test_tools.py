"""Turns that call tools: trained as the template writes them, whichever form it takes the call in."""

from typing import Any

import pytest
from templates import TOOLS_SOURCE, make, stretches

from luthier.errors import TemplateError
from luthier.text import render
from luthier.types import Message

CONTROLS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|call|>", "<|end|>")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
OBJECT = {"type": "function", "function": {"name": "add", "arguments": {"a": "one", "b": 2}}}
TEXT = {"function": {"name": "add", "arguments": '{"a": "one", "b": 2}'}}
CONCATENATES = TOOLS_SOURCE.replace("c.function.arguments|tojson", "c.function.arguments")
WANTS_NONE = TOOLS_SOURCE.replace("{% if m.tool_calls %}", "{% if m.content is not defined %}")
NO_END = TOOLS_SOURCE.replace("{% endfor %}{{ '<|end|>' }}{% else %}", "{% endfor %}{% else %}")


def talk(call: Any = OBJECT, said: str = "") -> list[Message]:
    return [
        Message("user", "one and 2?"),
        Message("assistant", said, tool_calls=(call,)),
        Message("tool", "3", name="add"),
        Message("assistant", "It is three."),
    ]


def trained(source: str, messages: list[Message]) -> list[str]:
    fast = make(source, CONTROLS, eos="<|end|>")
    return [fast.decode(ids) for row in render(messages, fast, tools=[TOOL]) for _, ids in stretches(row)]


@pytest.mark.parametrize("call", [OBJECT, TEXT], ids=["object", "text"])
@pytest.mark.parametrize("source", [TOOLS_SOURCE, CONCATENATES, WANTS_NONE], ids=["tojson", "text", "no content"])
def test_a_call_is_trained_as_the_template_writes_it(source: str, call: Any) -> None:
    expected = '<|call|>add {"a": "one", "b": 2}<|end|>'
    assert trained(source, talk(call)) == [expected, "It is three.<|end|>"]


def test_what_is_said_beside_the_call_is_trained_too() -> None:
    assert trained(TOOLS_SOURCE, talk(said="I add."))[0] == 'I add.<|call|>add {"a": "one", "b": 2}<|end|>'


def test_the_definitions_of_the_tools_are_in_the_prompt() -> None:
    fast = make(TOOLS_SOURCE, CONTROLS, eos="<|end|>")
    (row,) = render(talk(), fast, tools=[TOOL])
    assert '"name": "add"' in fast.decode(row.ids[: row.trained.index(True)])


def test_a_call_whose_end_the_template_leaves_to_the_next_turn() -> None:
    assert trained(NO_END, talk())[0] == '<|call|>add {"a": "one", "b": 2}<|tool|>'


def test_a_template_without_a_place_for_calls_is_refused() -> None:
    deaf = TOOLS_SOURCE.replace("m.tool_calls %}", "false %}")
    with pytest.raises(TemplateError, match="turn 2: the template leaves out the tool calls"):
        trained(deaf, talk())
