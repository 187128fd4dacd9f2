"""Answers that are broken inside: JSON that does not parse, code blocks that stay open, tools that do not exist.

Roles, empty turns, missing answers and unmatched tool calls are found where rows become conversations (`turns.py`).
"""

import json
import re
from collections.abc import Iterator

from luthier.data.documents import verdict
from luthier.data.step import PASS, Finding, Row, RowStep
from luthier.recipe.curate import Structure as Settings
from luthier.types import Message

LIKE_JSON = re.compile(r'\s*(\{\s*"|\[\s*(\{\s*"|"|\[))')
"""How an answer begins that is meant to be JSON: not `{1, 2}`, `[a, b)` or `{{name}}`."""
FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)$", re.MULTILINE)


def json_fault(text: str) -> str | None:
    """What is wrong with a text that begins like JSON; None when it is JSON or does not begin like it.

    Prose after the value is fine, and so are several values one after the other.
    """
    if not LIKE_JSON.match(text):
        return None
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except json.JSONDecodeError as error:
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    except RecursionError:
        return "nested too deeply"
    return None


def code_blocks(text: str) -> Iterator[tuple[str, str | None]]:
    """The fenced code blocks of Markdown (CommonMark, section 4.5): language and content, None for an open one."""
    opened: tuple[str, str, int] | None = None
    for found in FENCE.finditer(text):
        fence, info = found["fence"], found["info"].strip()
        if opened is None:
            opened = fence, info, found.end()
        elif fence[0] == opened[0][0] and len(fence) >= len(opened[0]) and not info:
            yield opened[1].lower(), text[opened[2] : found.start()]
            opened = None
    if opened:
        yield opened[1].lower(), None


class Structure(RowStep[Settings]):
    """Looks at the answers of conversations and pairs."""

    name = "structure"

    def look(self, row: Row) -> Finding:
        """The gravest fault: what drops the row before what sends it to review."""
        if row.is_document:
            return PASS
        found = [self._turn(number, turn, row) for number, turn in enumerate(row.messages, 1)]
        return max((one for one in found if one), key=lambda one: (one.fate is not None, one.risk), default=PASS)

    def _turn(self, number: int, turn: Message, row: Row) -> Finding | None:
        if turn.role != "assistant":
            return None
        if fault := json_fault(turn.content):
            return verdict(self.settings.broken_json, "broken_json", f"the answer in turn {number}: {fault}")
        if unknown := self._unknown_tool(turn, row):
            return verdict(self.settings.unknown_tools, "unknown_tool", f"turn {number} calls {unknown}, not defined")
        for language, content in code_blocks(turn.content):
            if content is None:
                reason = f"a code block in turn {number} is never closed"
                return verdict(self.settings.open_fences, "open_fence", reason)
            if language == "json" and (fault := json_fault(content)):
                return verdict(self.settings.open_fences, "broken_json_block", f"a block in turn {number}: {fault}")
        return None

    @staticmethod
    def _unknown_tool(turn: Message, row: Row) -> str | None:
        defined = {tool.get("function", tool).get("name") for tool in row.content.tools}
        names = [call.get("function", {}).get("name") for call in turn.tool_calls]
        return next((repr(name) for name in names if defined and name not in defined), None)
