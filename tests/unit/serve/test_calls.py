"""Tools: offered to models whose template has a place for them, and calls found in the forms that it writes."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import openai
import pytest
import torch
from serving import Running, said, start
from templates import TOOLS_SOURCE
from tiny import CHATML, llama, stop, tokenizer

from luthier.serve import batching
from luthier.serve.batching import Served
from luthier.serve.calls import bare, find_calls, reader_of, tagged
from luthier.text import render_prompt
from luthier.types import Message

HEAD = "{% if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}"
TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}CALL{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WRITTEN = {
    "qwen": "{{ '<tool_call>\\n{\"name\": \"' + c['function']['name'] + '\", \"arguments\": ' "
    "+ (c['function']['arguments'] | tojson) + '}\\n</tool_call>' }}",
    "llama": "{{ '{\"name\": \"' + c['function']['name'] + '\", \"parameters\": ' "
    "+ (c['function']['arguments'] | tojson) + '}' }}",
    "coder": "{{ '<tool_call>\\n<function=' + c['function']['name'] + '>' + (c['function']['arguments'] | tojson) "
    "+ '</function>\\n</tool_call>' }}",
}
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": "é", "b": 2}}\n</tool_call>'


def words(template: str) -> Any:
    found = deepcopy(tokenizer())
    found.chat_template = template
    return found


def writes(form: str) -> str:
    return HEAD + TURNS.replace("CALL", WRITTEN[form])


@pytest.mark.parametrize(
    ("template", "reader"),
    [
        (writes("qwen"), tagged), (writes("llama"), bare),
        (writes("coder"), None),  # a form that nobody here reads
        (TURNS.replace("CALL", WRITTEN["qwen"]), None),  # the definitions are left out
        (CHATML, None), (TOOLS_SOURCE, None),
    ],
    ids=["qwen", "llama", "coder", "no definitions", "no tools", "own form"],
)  # fmt: skip
def test_the_template_says_how_calls_are_written(template: str, reader: Any) -> None:
    assert reader_of(words(template), [stop()]) is reader


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (CALL, "", [("add", {"a": "é", "b": 2})]),
        (f"I add.\n{CALL}\n{CALL}", "I add.", [("add", {"a": "é", "b": 2})] * 2),
        ("It is three.", "It is three.", []),
        ("<tool_call>\n{half</tool_call>", "<tool_call>\n{half</tool_call>", []),
        (CALL.replace("add", "rm"), CALL.replace("add", "rm"), []),  # nobody offered that
        (CALL.replace('"arguments"', '"args"'), CALL.replace('"arguments"', '"args"'), []),
    ],
)
def test_a_call_is_read_or_left_as_it_is(text: str, rest: str, calls: Any) -> None:
    left, found = find_calls(text, tagged, [TOOL])
    assert left == rest
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in found] == calls
    assert len({c["id"] for c in found}) == len(found)


def test_llamas_call_is_the_whole_answer() -> None:
    call = '{"name": "add", "parameters": {"a": 1}}'
    assert find_calls(call, bare, [TOOL])[1][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    for text in (f"So: {call}", '{"name": "add"}', "[1]", '{"name": 1, "parameters": {}}'):
        assert find_calls(text, bare, [TOOL]) == (text, [])


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    models = [Served(form, llama(seed=5), words(writes(form)), (stop(),), 1024) for form in ("qwen", "coder")]
    yield from start([*models, Served("plain", llama(seed=5), tokenizer(), (stop(),), 1024)])


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the model say a text, whatever it is asked."""

    def script(text: str) -> None:
        ids = [*tokenizer()(text, add_special_tokens=False)["input_ids"], stop()]
        left = iter(ids)
        monkeypatch.setattr(batching, "choose", lambda logits, *_: torch.tensor([next(left)] * len(logits)))

    return script


def test_a_client_gets_the_calls_and_gives_the_results(running: Running, says: Any) -> None:
    chat = running.client().chat.completions
    asked: Any = {"model": "qwen", "messages": said("one and 2?"), "tools": [TOOL], "tool_choice": "auto"}
    says(f"I add.{CALL}")
    choice = chat.create(**asked).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I add.")
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": "é", "b": 2})
    says(CALL)
    deltas = [chunk.choices[0] for chunk in chat.create(stream=True, **asked) if chunk.choices]
    assert "".join(one.delta.content or "" for one in deltas) == ""
    (streamed,) = [one for delta in deltas for one in delta.delta.tool_calls or ()]
    assert (streamed.index, streamed.function.name) == (0, "add")
    assert deltas[-1].finish_reason == "tool_calls"
    says("It is three.")
    result = {"role": "tool", "tool_call_id": call.id, "content": "3"}
    turns = [*said("one and 2?"), choice.message.model_dump(exclude_none=True), result]
    last = chat.create(**(asked | {"messages": turns})).choices[0]
    assert (last.finish_reason, last.message.content, last.message.tool_calls) == ("stop", "It is three.", None)


def test_the_prompt_is_the_one_that_was_trained_with_tools(running: Running, says: Any) -> None:
    with_tools = render_prompt([Message("user", "x")], words(writes("qwen")), tools=[TOOL])
    without = render_prompt([Message("user", "x")], words(writes("qwen")))
    for more, prompt in (({"tools": [TOOL]}, with_tools), ({"tools": [TOOL], "tool_choice": "none"}, without)):
        says("three")
        found: Any = running.client().chat.completions.create(model="qwen", messages=said("x"), **more)
        assert found.usage.prompt_tokens == len(prompt)


@pytest.mark.parametrize("model", ["coder", "plain"])
def test_a_model_whose_calls_nobody_can_read_gets_no_tools(running: Running, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="has no place for tools, or writes calls in a form"):
        running.client().chat.completions.create(model=model, messages=said("x"), tools=[TOOL])
