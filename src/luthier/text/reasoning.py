"""Reasoning blocks: how published models open and close them."""

import re

REASONING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
_TAG = re.compile(r"<(/?)([A-Za-z_][\w:.-]*)>")


def open_block(text: str) -> str | None:
    """The opening of a reasoning block that is not closed in the text."""
    for opening, close in REASONING:
        if text.rfind(opening) > text.rfind(close):
            return opening
    tags = _TAG.findall(text)
    return f"<{tags[-1][1]}>" if tags and not tags[-1][0] else None


def is_closed_block(text: str) -> bool:
    """True for a reasoning block with nothing in it."""
    inner = text.strip()
    if any(inner.startswith(o) and inner.endswith(c) and not inner[len(o) : -len(c)].strip() for o, c in REASONING):
        return True
    return bool(re.fullmatch(r"<([A-Za-z_][\w:.-]*)>\s*</\1>", inner)) or inner in {close for _, close in REASONING}


def without_reasoning(text: str) -> str:
    """The answer after the last reasoning block that was closed."""
    for _, close in REASONING:
        if close in text:
            return text.rpartition(close)[2].lstrip()
    return text
