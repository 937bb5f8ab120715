"""SVG drawn by hand: scales, ticks, axes, marks. A chart is 440 units wide, so that its text is legible on a phone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from jaxfer import terminal
from jaxfer.reports import numbers
from jaxfer.reports.markup import Markup, joined, tag
from jaxfer.reports.style import SERIES

WIDTH, HEIGHT = 440.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 14.0, 42.0
SHAPES = ["cross", "circle", "square", "diamond", "triangle", "down", "star", "plus", "bar"]  # of series 0, 1, 2...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Where on an axis a value is.

    Attributes:
      low: the axis' first value.
      high: its last one.
      begin: where the first one is, in units of the drawing.
      end: where the last one is.
      log: whether equal factors are equally long.
    """

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return round(self.begin + (at - low) / (high - low) * (self.end - self.begin), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """About so many round values of the axis."""
        return _powers(self.low, self.high, count) if self.log else _steps(self.low, self.high, count)


def fitted(
    values: Iterable[float], begin: float, end: float, *, log: bool = False, margin: float = 0.06, within: str = ""
) -> Scale:
    """The scale of values with a margin at both ends.

    Args:
      values: finite ones.
      begin: where the axis begins.
      end: where it ends.
      log: where all values are positive and span more than a factor of 4: equal factors are equally long.
      margin: as a share of the span.
      within: `share`: an axis of shares ends at 0 and 1; `above`: it begins at 0.
    """
    found = [float(value) for value in values] or [0.0, 1.0]
    low, high = min(found), max(found)
    if log and low > 0 and high / low > 4:
        factor = (high / low) ** margin
        return Scale(low=low / factor, high=high * factor, begin=begin, end=end, log=True)
    span = (high - low) or abs(high) * 0.2 or 1.0
    low, high = low - margin * span, high + margin * span
    high += span if high == low else 0.0
    if within == "above":
        low = 0.0 if min(found) >= 0 else low
    if within == "share":
        low, high = max(low, 0.0), min(high, 1.0)
    return Scale(low=low, high=high, begin=begin, end=end)


def _steps(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float, count: int) -> list[float]:
    """Powers of ten, and with few of them their multiples by 2 and 5, or every second one."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for multiples, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [m * 10.0**i for i in range(first, last + 1, every) for m in multiples]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= count + 1:
            break
    return ticks


def hue(series: int) -> str:
    """The class of a series' colour; its shape tells it from another one of that colour."""
    return f"s{series if series <= SERIES else 1 + (series - 1) % SERIES}"


def text(x: float, y: float, words: object, anchor: str = "start", kind: str | None = None) -> Markup:
    return tag("text", words, x=f"{x:g}", y=f"{y:g}", text_anchor=None if anchor == "start" else anchor, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "g") -> Markup:
    return tag("line", x1=f"{x1:g}", y1=f"{y1:g}", x2=f"{x2:g}", y2=f"{y2:g}", class_=kind)


def path(points: Sequence[tuple[float, float]], kind: str = "l", *, closed: bool = False) -> Markup:
    steps = "L".join(f"{x:g} {y:g}" for x, y in points)
    return tag("path", d=f"M{steps}{'Z' if closed else ''}", class_=kind)


def rectangle(x: float, y: float, width: float, height: float, kind: str = "r", hint: str = "", **more) -> Markup:
    inner = tag("title", hint) if hint else ""
    return tag("rect", inner, x=f"{x:g}", y=f"{y:g}", width=f"{width:g}", height=f"{height:g}", class_=kind, **more)


def mark(x: float, y: float, series: int, hint: str = "", size: float = 5.5) -> Markup:
    """The mark of a series: its shape tells it apart where colours don't."""
    shape, title = SHAPES[series % len(SHAPES)], tag("title", hint) if hint else ""
    if shape == "circle":
        return tag("circle", title, cx=f"{x:g}", cy=f"{y:g}", r=f"{size:g}", class_="m")
    corners = " ".join(f"{x + size * a:g},{y + size * b:g}" for a, b in _CORNERS[shape])
    return tag("polygon", title, points=corners, class_="m")


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    angles = [math.pi * i / points - math.pi / 2 for i in range(2 * points)]
    return [
        ((inner if i % 2 else 1.25) * math.cos(a), (inner if i % 2 else 1.25) * math.sin(a))
        for i, a in enumerate(angles)
    ]


_CORNERS = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    "triangle": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
    "down": [(0, 1.2), (1.15, -0.85), (-1.15, -0.85)],
    "bar": [(-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)],
    "plus": [
        (-0.4, -1.2),
        (0.4, -1.2),
        (0.4, -0.4),
        (1.2, -0.4),
        (1.2, 0.4),
        (0.4, 0.4),
        (0.4, 1.2),
        (-0.4, 1.2),
        (-0.4, 0.4),
        (-1.2, 0.4),
        (-1.2, -0.4),
        (-0.4, -0.4),
    ],
    "cross": [
        (-1.1, -0.6),
        (-0.6, -1.1),
        (0, -0.5),
        (0.6, -1.1),
        (1.1, -0.6),
        (0.5, 0),
        (1.1, 0.6),
        (0.6, 1.1),
        (0, 0.5),
        (-0.6, 1.1),
        (-1.1, 0.6),
        (-0.5, 0),
    ],
    "star": _star(5, 0.55),
}


def axes(
    x: Scale,
    y: Scale,
    *,
    x_name: str,
    y_name: str,
    x_text: Callable[[float], str] = numbers.compact,
    y_text: Callable[[float], str] = numbers.compact,
    x_ticks: Sequence[float] = (),
) -> Markup:
    """Grid lines, tick labels and the names of both axes; y's name stands above its axis."""
    left, right, bottom, top = x.begin, x.end, y.begin, y.end
    parts = []
    for tick in y.ticks():
        parts += [line(left, y(tick), right, y(tick)), text(left - 6, y(tick) + 4, y_text(tick), "end", "t")]
    for tick in x_ticks or x.ticks():
        parts += [
            line(x(tick), bottom, x(tick), bottom + 4, "a"),
            text(x(tick), bottom + 17, x_text(tick), "middle", "t"),
        ]
    parts.append(line(left, bottom, right, bottom, "a"))
    parts.append(text((left + right) / 2, bottom + 34, x_name, "middle", "t"))
    parts.append(text(2, top - 8, y_name, "start", "t"))
    return joined(parts)


def drawing(
    name: str, title: str, description: str, *content: object, width: float = WIDTH, height: float = HEIGHT
) -> Markup:
    """The SVG element, with what a screen reader says of it."""
    told = (tag("title", title, id=f"{name}-t"), tag("desc", description, id=f"{name}-d"))
    return tag(
        "svg", *told, *content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_labelledby=f"{name}-t {name}-d"
    )


def shortened(name: str, columns: int = 22) -> str:
    return terminal.shortened(" ".join(str(name).split()), columns)


def wide(words: str, size: float = 12.0) -> float:
    """About how long a text is in a font of this size."""
    return sum(0.34 if c in "iljtfr.,:;|!' " else 0.95 if c in "mwMW@%" else 0.63 for c in words) * size
