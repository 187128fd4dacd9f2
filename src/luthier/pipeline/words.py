"""Numbers and foreign text as people read them, the same on the page and in the terminal."""

import math
import unicodedata

MISSING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def as_number(value: object) -> float | None:
    """The number meant; logs write those that are not finite as text. None when it is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def number(value: object) -> str:
    """A measured number, with three decimals while they say something."""
    x = as_number(value)
    if x is None or not math.isfinite(x):
        return MISSING if x is None else "not finite"
    digits = 3 if abs(x) < 100 else 1 if abs(x) < 10_000 else 0
    return f"{x:,.{digits}f}".replace("-", MINUS)


def signed(value: object) -> str:
    """A difference: always with its sign."""
    x, text = as_number(value), number(value)
    return f"+{text}" if x is not None and math.isfinite(x) and x > 0 else text


def small(value: object) -> str:
    """A number that may be tiny, such as a learning rate or a difference of logits."""
    x = as_number(value)
    return MISSING if x is None else f"{x:.3g}"


def count(value: object) -> str:
    """A whole number."""
    x = as_number(value)
    return MISSING if x is None else f"{x:,.0f}"


def share(part: object, whole: object) -> str:
    """A part of a whole in per cent; never 0 % for something or 100 % for not everything."""
    x, y = as_number(part), as_number(whole)
    if x is None or not y:
        return MISSING
    of = 100 * x / y
    if 0 < of < 0.1:
        return "< 0.1 %"
    if 99.9 < of < 100:
        return "> 99.9 %"
    return f"{of:.1f} %"


def size(value: object) -> str:
    """A number of bytes."""
    x = as_number(value)
    if x is None:
        return MISSING
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if x >= power:
            return f"{x / power:.1f} {unit}"
    return f"{x:.0f} B"


def duration(value: object) -> str:
    """A time span in seconds, in the units people use for it."""
    seconds = as_number(value)
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def visible(text: str) -> str:
    """Foreign text with its lines, that cannot steer a terminal: other control signs are replaced."""
    return "".join("�" if sign != "\n" and unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text)


def printable(text: object) -> str:
    """Foreign text in one line that cannot steer a terminal: control signs are replaced, white space is folded."""
    line = " ".join(str(text).split())
    return "".join("�" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in line)
