"""The report's drawings, as inline SVG without a script.

Positions are percentages of the drawing's box and text keeps its size, so one drawing is right on a phone, on a screen
and on paper. Lines through many points lie in an inner box that is stretched; their stroke is not. All colours come
from the style sheet, by class. Every text and attribute passes through `markupsafe.escape`.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

from markupsafe import Markup, escape

from luthier.events import Step, Validated
from luthier.types import Metric

POINTS = 600  # more than that cannot be told apart on a page


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; `stroke_width` becomes `stroke-width`, a trailing underscore goes, None is left out."""
    given = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None}
    spelled = "".join(f' {"viewBox" if k == "viewbox" else k}="{escape(v)}"' for k, v in given.items())
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{spelled}>{inside}</{name}>")  # noqa: S704 - every part was escaped above


def percent(share: float) -> str:
    """A position: 0 is the left or top, 1 the right or bottom; what lies outside is drawn on the border."""
    return f"{min(1.0, max(0.0, share)) * 100:.2f}%"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between `low` and `high`, at most about `most` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A tick as people write it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _svg(height: float, label: str, *children: object, class_: str = "chart") -> Markup:
    return tag("svg", *children, class_=class_, width="100%", height=height, role="img", aria_label=label)


def _line(x1: str, x2: str, y: str, class_: str) -> Markup:
    return tag("line", x1=x1, x2=x2, y1=y, y2=y, class_=class_)


def _upright(x: str, y1: object, y2: object, class_: str) -> Markup:
    return tag("line", x1=x, x2=x, y1=y1, y2=y2, class_=class_)


def against(
    value: float, low: float, high: float, demand: float, *, lower_is_better: bool, verdict: str, label: str
) -> Markup:
    """A dot with its whisker against the line a rule draws. The line is in the middle and better is to the right."""
    kind = verdict if verdict in ("fail", "inconclusive") else "after"
    sign = -1 if lower_is_better else 1
    margins = sorted(sign * (x - demand) for x in (low, high))
    reach = max(*map(abs, margins), abs(value - demand), 1e-9) * 1.12
    left, dot, right = (percent(0.5 + x / reach / 2) for x in (margins[0], sign * (value - demand), margins[1]))
    return _svg(
        24,
        label,
        _line("0%", "100%", "12", "track"),
        _upright("50%", 1, 23, "demand"),
        _line(left, right, "12", f"whisker {kind}"),
        tag("circle", cx=dot, cy=12, r=4.5, class_=f"dot {kind}"),
    )


def before_after(before: Metric | None, after: Metric | None, label: str) -> Markup:
    """Two dots with whiskers on one scale that begins at 0; shares end at 1, other numbers at the next round one."""
    top = scale_top(m.high for m in (before, after) if m)
    parts = [_line("0%", "100%", "15", "track"), _upright("0%", 11, 19, "track"), _upright("100%", 11, 19, "track")]
    for metric, y, kind in ((before, 9, "before"), (after, 21, "after")):
        if metric:
            parts.append(_line(percent(metric.low / top), percent(metric.high / top), str(y), f"whisker {kind}"))
            parts.append(tag("circle", cx=percent(metric.value / top), cy=y, r=3.5, class_=f"dot {kind}"))
    parts.append(tag("text", "0", x="0%", dx=-9, y=19, class_="tick end"))
    parts.append(tag("text", tick_label(top), x="100%", dx=9, y=19, class_="tick start"))
    return _svg(30, label, *parts)


def scale_top(values: Iterable[float]) -> float:
    """The end of a scale from 0 on: 1 for shares, else the next round number."""
    finite = [v for v in values if math.isfinite(v)]
    top = max(finite, default=1.0)
    if top <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(top))
    return float(next(power * m for m in (1, 2, 5, 10) if power * m >= top))


def dumbbell(before: float, after: float, label: str) -> Markup:
    """Before and after on a scale from 0 to 1, joined by a bar."""
    left, right = sorted((before, after))
    return _svg(
        30,
        label,
        *(_upright(percent(x / 4), 0, 30, "grid") for x in range(5)),
        _line(percent(left), percent(right), "15", "joint worse" if after < before else "joint"),
        tag("circle", cx=percent(before), cy=15, r=4, class_="dot before"),
        tag("circle", cx=percent(after), cy=15, r=4.5, class_="dot after"),
    )


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of the values around each one: no lag, so a turn in the curve lies where it happened."""
    sums = [0.0, *accumulate(values)]
    half, n = window // 2, len(values)
    edges = [(max(0, i - half), min(n, i + half + 1)) for i in range(n)]
    return [(sums[b] - sums[a]) / (b - a) for a, b in edges]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Fewer points with the same outline: of each stretch the lowest and the highest, in their order."""
    if len(points) <= POINTS:
        return list(points)
    size = math.ceil(len(points) / (POINTS / 2))
    kept: list[tuple[float, float]] = []
    for i in range(0, len(points), size):
        part = points[i : i + size]
        kept.extend(sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}))
    return kept


class _Frame:
    """The scales of the loss chart."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], always: Sequence[float]) -> None:
        ordered = sorted(ys)
        # A first loss far above all others would press the rest flat: beyond the 99th percentile it meets the border.
        top = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if len(ordered) > 100 else max(ys)
        self.low, high = min([*ys, *always]), max([top, *always])
        room = (high - self.low) * 0.06 or 0.1
        # A scale that begins close to 0 begins at 0: the reader then sees proportions, not only differences.
        self.low, self.high = (0.0 if 0 <= self.low < 0.4 * high else self.low - room), high + room
        self.right = max(xs) or 1.0

    def x(self, step: float) -> float:
        return step / self.right

    def y(self, loss: float) -> float:
        return (self.high - loss) / (self.high - self.low)

    def path(self, points: Sequence[tuple[float, float]], class_: str) -> Markup:
        at = [(1000 * self.x(x), 1000 * min(1.0, max(0.0, self.y(y)))) for x, y in points]
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        return tag("path", d=d, class_=class_, vector_effect="non-scaling-stroke")


def loss_chart(steps: Sequence[Step], validations: Sequence[Validated]) -> Markup:
    """Training loss (each update, and smoothed) and validation loss over updates, the best one marked."""
    train = [(float(s.step), s.loss) for s in steps if math.isfinite(s.loss)]
    held = [(float(v.step), v.loss) for v in validations if math.isfinite(v.loss)]
    if not train and not held:
        return Markup("")
    calm = smooth([y for _, y in train], max(1, len(train) // 20))
    every = [*train, *held]
    frame = _Frame([x for x, _ in every], [y for _, y in every], [*calm[len(calm) // 20 :], *(y for _, y in held)])
    smoothed = [(x, y) for (x, _), y in zip(train, calm, strict=True)]
    lines = [frame.path(_thin(train), "train raw"), frame.path(_thin(smoothed), "train")]
    curves = [*(lines if train else []), *([frame.path(held, "validation")] if held else [])]
    inner = tag("svg", *curves, width="100%", height="100%", viewbox="0 0 1000 1000", preserveAspectRatio="none")
    dots = [tag("circle", cx=percent(frame.x(x)), cy=percent(frame.y(y)), r=3, class_="dot after") for x, y in held]
    label = f"Loss over {len(train)} updates, {len(held)} validations"
    return _svg(280, label, *_axes(frame), inner, *dots, *_best(frame, held), class_="chart loss")


def _axes(frame: _Frame) -> list[Markup]:
    parts = []
    for value in ticks(frame.low, frame.high):
        y = percent(frame.y(value))
        label = tag("text", tick_label(value), x=0, dx=-10, y=y, dy="0.32em", class_="tick end")
        parts += [_line("0%", "100%", y, "grid"), label]
    for value in ticks(0, frame.right):
        x = percent(frame.x(value))
        parts.append(tag("text", tick_label(value), x=x, y="100%", dy=20, class_="tick middle"))
    return parts


def _best(frame: _Frame, held: Sequence[tuple[float, float]]) -> list[Markup]:
    if not held:
        return []
    step, loss = min(held, key=lambda point: point[1])
    x, y = frame.x(step), frame.y(loss)
    side = "end" if x > 0.6 else "start"
    up = y > 0.5
    label = f"best {loss:.3f} at update {step:,.0f}"
    return [
        tag("circle", cx=percent(x), cy=percent(y), r=7, class_="best"),
        tag("text", label, x=percent(x), y=percent(y), dy=-16 if up else 26, class_=f"note {side}"),
    ]
