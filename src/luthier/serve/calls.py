"""Calls of tools in an answer: found where the model's own template writes them in a form that is known here.

Which form that is, is asked of the template: it writes a call, and the reader that gets that very call back is the one.
"""

import json
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from luthier.errors import TemplateError
from luthier.text import read_answer
from luthier.text.template import template_of
from luthier.text.tokenizer import Tokenizer
from luthier.types import Json, Message


class Call(NamedTuple):
    """A tool's name, and its arguments by name."""

    name: str
    arguments: dict[str, Any]


Found = tuple[str, list[Call]]
"""The text beside the calls, and the calls."""
Reader = Callable[[str], Found | None]
_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_TOOL = {
    "type": "function",
    "function": {
        "name": "qzvtool", "description": "A tool.",
        "parameters": {"type": "object", "properties": {"qzvkey": {"type": "string"}}, "required": []},
    },
}  # fmt: skip
_CALL = Call("qzvtool", {"qzvkey": "qzvvalue"})


def tagged(text: str) -> Found | None:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes and Qwen write each call."""
    calls = [_call(body, "arguments") for body in _TAGGED.findall(text)]
    known = [call for call in calls if call is not None]
    return (_TAGGED.sub("", text).strip(), known) if calls and len(known) == len(calls) else None


def bare(text: str) -> Found | None:
    """`{"name": ..., "parameters": {...}}` and nothing else, as Llama 3 writes one call."""
    call = _call(text, "parameters")
    return ("", [call]) if call is not None else None


READERS: tuple[Reader, ...] = (tagged, bare)


def _call(text: str, arguments: str) -> Call | None:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.keys() != {"name", arguments}:
        return None
    name, given = body["name"], body[arguments]
    return Call(name, given) if isinstance(name, str) and isinstance(given, dict) else None


def reader_of(tokenizer: Tokenizer, stop: Sequence[int]) -> Reader | None:
    """What reads the calls that the chat template writes; None where it has no place for tools, or none knows it.

    Args:
        tokenizer: with the template.
        stop: ids that end an answer.
    """
    call = {"id": "call00000", "type": "function", "function": {"name": _CALL.name, "arguments": _CALL.arguments}}
    asked = Message("user", "qzvasked")
    talk = [asked, Message("assistant", "", tool_calls=(call,))]
    try:
        template = template_of(tokenizer, [_TOOL])
        forms = list(template.forms(talk))
    except TemplateError:
        return None
    for form in forms:
        try:
            prompt = template.write(template.turns([asked], form), generation=True, tools=[_TOOL])
            whole = template.write(template.turns(talk, form), generation=False, tools=[_TOOL])
        except TemplateError:
            continue
        if _CALL.name not in prompt or not whole.startswith(prompt):
            continue
        ids = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
        end = next((k for k, token in enumerate(ids) if token in stop), len(ids))
        answer = read_answer(ids[:end], tokenizer)
        for reader in READERS:
            if reader(answer) == ("", [_CALL]):
                return reader
    return None


def find_calls(text: str, reader: Reader | None, tools: Sequence[Json]) -> tuple[str, list[Json]]:
    """An answer's text and its calls in OpenAI's form; calls of what was not offered stay text."""
    found = reader(text) if reader else None
    offered = {tool["function"]["name"] for tool in tools}
    if found is None or any(call.name not in offered for call in found[1]):
        return text, []
    return found[0], [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in found[1]
    ]  # fmt: skip
