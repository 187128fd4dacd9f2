"""The funnel as a picture: an SVG without script that stands on its own, for the data card and for slides.

A line for each rule: the blue part of its bar are the rows left, the orange part those it took. It follows the reader's
light or dark colours, and what it says stands in its title and in the card's table, too.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

WIDTH, LINE, TOP = 760, 26, 40
LEFT, RIGHT = 190, 190
"""Room for the names of rules and for numbers, in pixels."""
LETTERS = 26
"""Letters of a name that fit its room."""
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b1f24}.head{font-weight:600}.end{text-anchor:end}.soft{fill:#59636e}"
    ".left{fill:#2f6fb2}.taken{fill:#d9822b}.track{fill:#e7ebef}.page{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}.left{fill:#5b9bd8}.taken{fill:#e39a4f}"
    ".track{fill:#2b323a}.page{fill:#0d1117}}"
)


def funnel_picture(facts: Mapping[str, Any]) -> str:
    """The SVG.

    Args:
        facts: what a curation counted: `read`, `funnel` (the rule, the rows it took and left) and `fates`.
    """
    read, kept = facts["read"], facts["fates"]["kept"]
    lines = [("all rows", 0, read), *((part["rule"], part["rows"], part["left"]) for part in facts["funnel"])]
    height = TOP + LINE * len(lines) + 12
    title = f"Of {read:,} rows read, {kept:,} are kept" + (f" ({kept / read:.1%})" if read else "")
    told = "; ".join(f"{name} takes {taken:,} and leaves {left:,}" for name, taken, left in lines[1:])
    drawn = "\n".join(_line(i, *line, whole=max(read, 1)) for i, line in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-labelledby="title told">\n<title id="title">{escape(title)}</title>\n'
        f'<desc id="told">{escape(told)}</desc>\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{height}"/>\n'
        f'<text class="head" x="12" y="24">{escape(title)}</text>\n{drawn}\n</svg>\n'
    )


def _line(number: int, name: str, taken: int, left: int, *, whole: int) -> str:
    y, room = TOP + LINE * number, WIDTH - LEFT - RIGHT
    stays = room * left / whole
    goes = max(room * taken / whole, 1.5) if taken else 0.0  # one row of a million is seen, too
    shown = name.replace("_", " ")
    shown = shown if len(shown) <= LETTERS else shown[: LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    said = f'<tspan class="soft">\N{MINUS SIGN}{taken:,}</tspan>' if taken else ""
    return (
        f'<text class="end" x="{LEFT - 12}" y="{y + 16}">{escape(shown)}</text>'
        f'<rect class="track" x="{LEFT}" y="{y + 3}" width="{room}" height="17" rx="2"/>'
        f'<rect class="left" x="{LEFT}" y="{y + 3}" width="{stays:.1f}" height="17" rx="2"/>'
        f'<rect class="taken" x="{LEFT + min(stays, room - goes):.1f}" y="{y + 3}" width="{goes:.1f}" height="17"/>'
        f'<text class="end" x="{LEFT + room + 84}" y="{y + 16}">{left:,}</text>'
        f'<text class="end" x="{WIDTH - 16}" y="{y + 16}">{said}</text>'
    )
