"""Verdicts take effect: rejected rows are left out, edited ones hold what the person wrote."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from luthier.data.memory import packed
from luthier.data.outcome import Workshop
from luthier.data.step import Content
from luthier.data.table import KEPT, Table
from luthier.data.verdicts import Verdict
from luthier.types import Fate, Message, Pair

REPLACED = ("rating", "tokens", "trained", "longest", "at", "content", "pieces", "signatures")
"""What an edit changes of a row; its mark stays that of what was seen, so that the verdict stays bound to it."""


def apply_verdicts(table: Table, workshop: Workshop, verdicts: Mapping[str, Verdict], limit: int) -> None:
    """Change the kept rows that a verdict says something of; `limit` is the longest row in tokens."""
    if not any(verdict.defective for verdict in verdicts.values()):
        return
    rows = table.sql(f"SELECT n, mark FROM rows WHERE {KEPT}").fetchall()
    for number, mark in rows:
        verdict = verdicts.get(mark.hex())
        if verdict is None or not verdict.defective:
            continue
        if verdict.decision == "reject":
            reason = verdict.note or "a person rejected it"
            _set(table, number, {"fate": "rejected_in_review", "rule": "review", "reason": reason})
        else:
            _edit(table, workshop, number, mark, verdict, limit)


def _edit(table: Table, workshop: Workshop, number: int, mark: bytes, verdict: Verdict, limit: int) -> None:
    text = verdict.edited or ""
    key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=mark, digest_size=16).digest()
    known = table.memory.look_up([key])
    if not known:
        revised = workshop.revise(with_answer(table.content(number), text))
        known = table.memory.keep([key], packed([revised]))
    made = known[key]
    fate = Fate(made.fate, made.reason, score=made.score)
    if fate.kept and made.longest is not None and made.longest > limit:
        fate = Fate("too_long", f"{made.longest} tokens, the limit is {limit}", score=made.longest)
    if not fate.kept:
        reason = f"as it was edited: {fate.reason}"
        _set(table, number, {"fate": fate.name, "rule": "review", "reason": reason, "score": fate.score})
        return
    note = table.sql("SELECT note FROM rows WHERE n = ?", (number,)).fetchone()[0]
    said = "edited in review" + (f": {verdict.note}" if verdict.note else "")
    _set(
        table, number, {name: getattr(made, name) for name in REPLACED} | {"note": f"{note}; {said}" if note else said}
    )


def _set(table: Table, number: int, values: Mapping[str, object]) -> None:
    names = ", ".join(f"{name} = ?" for name in values)
    table.change(f"UPDATE rows SET {names} WHERE n = ?", [(*values.values(), number)])


def with_answer(content: Content, text: str) -> Content:
    """The content with its last answer (of a pair the chosen one; of plain text the whole) replaced."""
    if isinstance(content, Pair):
        return replace(content, chosen=_last(content.chosen, text))
    if content.text is not None:
        return replace(content, text=text)
    return replace(content, messages=_last(content.messages, text))


def answer_of(content: Content) -> str:
    """The text that an edit replaces."""
    if isinstance(content, Pair):
        return content.chosen[-1].content
    return content.text if content.text is not None else content.messages[-1].content


def _last(turns: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    return (*turns[:-1], replace(turns[-1], content=text))
