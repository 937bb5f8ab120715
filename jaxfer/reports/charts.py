"""The charts of a report: each is a `figure` with a caption, marks that say their numbers, and a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxfer.reports import numbers, svg
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Part
from jaxfer.reports.tables import Cell, numbers_of

RIGHT, BOTTOM = svg.WIDTH - svg.RIGHT, svg.HEIGHT - svg.BOTTOM
TOP = svg.TOP + 14  # below the name of the y axis


class Point(NamedTuple):
    """A mark of a scatter, or a row of a chart of intervals.

    Attributes:
      name: as the legend has it.
      x: its value; of a row the value itself.
      y: its height; of a row unused.
      low: lower end of the interval of what is measured, or NaN.
      high: upper end.
      series: number of its colour and shape.
      best: whether nothing is both better and cheaper.
    """

    name: str
    x: float
    y: float = math.nan
    low: float = math.nan
    high: float = math.nan
    series: int = 1
    best: bool = False


def figure(
    name: str,
    title: str,
    about: str,
    drawn: Markup,
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    legend: Mapping[str, int] | None = None,
    wide: bool = False,
) -> Part:
    """A chart with its caption, its legend and its numbers."""
    caption = tag("figcaption", tag("h3", title), tag("p", about))
    entries = (
        tag(
            "li",
            tag(
                "svg", svg.mark(12, 7, series, size=5), viewBox="0 0 24 14", class_=svg.hue(series), aria_hidden="true"
            ),
            tag("span", label),
        )
        for label, series in (legend or {}).items()
    )
    listed = tag("ul", *entries, class_="legend") if legend else ""
    content = tag(
        "figure",
        caption,
        listed,
        drawn,
        numbers_of(title, headers, rows, name),
        id=name,
        class_="wide" if wide else None,
    )
    return Part(content=content, name=f"figure {name}", figure=True)


def intervals(
    name: str,
    title: str,
    points: Sequence[Point],
    *,
    x_name: str,
    zero: float | None = 0.0,
    show: Callable[[float], str] = numbers.signed,
) -> Markup:
    """A row for each point: its value, its interval, and a dashed line where nothing differs."""
    left = 14 + max((svg.wide(svg.shortened(p.name)) for p in points), default=0)
    ends = [v for p in points for v in (p.x, p.low, p.high) if math.isfinite(v)] + ([] if zero is None else [zero])
    row, right = 30, RIGHT - 56
    bottom = 14 + row * len(points)
    x = svg.fitted(ends, left, right)
    parts = [svg.line(x(tick), 8, x(tick), bottom) for tick in x.ticks(4)]
    parts += [svg.text(x(tick), bottom + 16, numbers.compact(tick), "middle", "t") for tick in x.ticks(4)]
    if zero is not None and x.low <= zero <= x.high:
        parts.append(svg.line(x(zero), 4, x(zero), bottom, "dash"))
    for i, p in enumerate(points):
        at, low, high = 12 + row * (i + 0.5), max(p.low, x.low), min(p.high, x.high)
        hint = f"{p.name}: {show(p.x)}" + (f" [{show(p.low)}, {show(p.high)}]" if math.isfinite(p.low) else "")
        parts.append(svg.text(left - 10, at + 4, svg.shortened(p.name), "end"))
        if not math.isfinite(p.x):
            parts.append(svg.text(left, at + 4, "no value", kind="t"))
            continue
        bar = svg.line(x(low), at, x(high), at, "l") if math.isfinite(p.low) else ""
        parts.append(tag("g", bar, svg.mark(x(p.x), at, p.series, hint), class_=svg.hue(p.series)))
        parts.append(svg.text(svg.WIDTH - 4, at + 4, show(p.x), "end", "h"))
    parts.append(svg.text((left + right) / 2, bottom + 33, x_name, "middle", "t"))
    said = "; ".join(f"{p.name} {show(p.x)}" for p in points[:12])
    return svg.drawing(name, title, said, *parts, height=bottom + 42)


def scatter(
    name: str,
    title: str,
    points: Sequence[Point],
    *,
    x_name: str,
    y_name: str,
    x_text: Callable[[float], str] = numbers.compact,
    log: bool = True,
) -> Markup:
    """Values against their cost; a ring and a dashed line mark what nothing beats in both."""
    x = svg.fitted((p.x for p in points), svg.LEFT + 8, RIGHT - 8, log=log, margin=0.09)
    heights = [v for p in points for v in (p.y, p.low, p.high) if math.isfinite(v)]
    y = svg.fitted(heights, BOTTOM, TOP)
    frame = svg.axes(x, y, x_name=x_name, y_name=y_name, x_text=x_text)
    front = sorted((p for p in points if p.best), key=lambda p: p.x)
    steps = [(x(p.x), y(p.y)) for p in front]
    parts = [frame, svg.path(steps, "dash") if len(steps) > 1 else ""]
    taken = [(x(p.x) - 8, y(p.y) - 8, x(p.x) + 8, y(p.y) + 8) for p in points]
    for p in points:
        at, high = x(p.x), y(p.y)
        bar = svg.line(at, y(p.low), at, y(p.high), "l") if math.isfinite(p.low) else ""
        hint = f"{p.name}: {numbers.score(p.y)} at {x_text(p.x)}"
        ring = tag("circle", cx=f"{at:g}", cy=f"{high:g}", r="9.5", class_="ring") if p.best else ""
        parts.append(tag("g", bar, svg.mark(at, high, p.series, hint), ring, class_=svg.hue(p.series)))
        parts.append(_label(svg.shortened(p.name, 18), at, high, taken))
    said = "; ".join(f"{p.name} {numbers.score(p.y)} at {x_text(p.x)}" for p in points[:12])
    return svg.drawing(name, title, said, *parts)


def _label(words: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> Markup:
    """A name beside its mark, where it covers nothing; else none, since the legend has it."""
    width = svg.wide(words, 11)
    places = [(x + 13, y + 4), (x - 13 - width, y + 4)]
    places += [
        (x - width / 2, y - 14),
        (x - width / 2, y + 21),
        (x + 9, y - 11),
        (x - 9 - width, y - 11),
        (x + 9, y + 18),
        (x - 9 - width, y + 18),
    ]
    for left, base in places:
        box = (left - 1, base - 10, left + width + 1, base + 3)
        inside = box[0] >= svg.LEFT - 4 and box[2] <= svg.WIDTH and box[1] >= TOP - 10 and box[3] <= BOTTOM
        if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            taken.append(box)
            return svg.text(round(left, 1), round(base, 1), words, kind="t")
    return Markup("")


class Band(NamedTuple):
    """A curve over several runs: steps, the middle value at each, and the lowest and the highest."""

    series: int
    steps: Sequence[float]
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def lines(
    name: str,
    title: str,
    bands: Mapping[str, Band],
    *,
    x_name: str,
    y_name: str,
    wide_range: bool = False,
    ticks: Sequence[float] = (),
    marks: bool = True,
) -> Markup:
    """A line for each name, and a band where its runs differ; with `ticks`, x is logarithmic and has these alone."""
    steps = [s for b in bands.values() for s in b.steps]
    x = svg.fitted(
        steps, svg.LEFT, RIGHT - 8, log=bool(ticks), margin=0.05 if ticks else 0.02, within="" if ticks else "above"
    )
    heights = [v for b in bands.values() for v in (*b.middle, *b.low, *b.high) if math.isfinite(v)]
    y = svg.fitted(
        heights, BOTTOM, TOP, log=wide_range and min(heights, default=0) > 0 and max(heights) / min(heights) > 30
    )
    parts = [svg.axes(x, y, x_name=x_name, y_name=y_name, x_ticks=ticks)]
    for label, b in bands.items():
        known = [i for i, v in enumerate(b.middle) if math.isfinite(v)]
        if not known:
            continue
        outline = [(x(b.steps[i]), y(b.high[i])) for i in known] + [
            (x(b.steps[i]), y(b.low[i])) for i in reversed(known)
        ]
        band = svg.path(outline, "b", closed=True) if any(b.high[i] > b.low[i] for i in known) else ""
        middle = svg.path([(x(b.steps[i]), y(b.middle[i])) for i in known])
        shown = known if len(known) <= 12 else known[:: -(-len(known) // 12)]
        dots = (
            svg.mark(
                x(b.steps[i]),
                y(b.middle[i]),
                b.series,
                f"{label}, step {b.steps[i]:g}: {numbers.score(b.middle[i])}",
                3.6,
            )
            for i in (shown if marks else ())
        )
        parts.append(tag("g", band, middle, *dots, class_=svg.hue(b.series)))
    said = "; ".join(
        f"{label} ends at {numbers.score(b.middle[-1])}" for label, b in [*bands.items()][:12] if len(b.middle)
    )
    return svg.drawing(name, title, said, *parts)


def bars(
    name: str,
    title: str,
    values: Mapping[str, float],
    *,
    x_name: str,
    show: Callable[[float], str] = numbers.whole,
    series: Mapping[str, int] | None = None,
) -> Markup:
    """A horizontal bar for each name."""
    labels = {key: svg.shortened(key) for key in values}
    left = 14 + max((svg.wide(label) for label in labels.values()), default=0)
    found = [v for v in values.values() if numbers.known(v)]
    row, right = (22 if len(values) > 6 else 27), RIGHT - 58
    x = svg.fitted([0.0, *found], left, right, margin=0)
    parts, bottom = [], 8 + row * len(values)
    for i, (key, value) in enumerate(values.items()):
        at, kind = 6 + row * i, f"r {svg.hue((series or {}).get(key, 1))}"
        parts.append(svg.text(left - 8, at + row / 2 + 4, labels[key], "end"))
        if numbers.known(value):
            begin, end = sorted((x(0.0), x(value)))
            parts.append(
                svg.rectangle(
                    begin, at + 3, max(round(end - begin, 1), 1), row - 6, kind, f"{key}: {show(value)}", rx=2
                )
            )
        parts.append(
            svg.text(
                (x(value) if numbers.known(value) and value > 0 else x(0.0)) + 6,
                at + row / 2 + 4,
                show(value),
                kind="t",
            )
        )
    parts.append(svg.line(x(0.0), 4, x(0.0), bottom, "a"))
    parts.append(svg.text((left + right) / 2, bottom + 18, x_name, "middle", "t"))
    said = "; ".join(f"{key} {show(value)}" for key, value in [*values.items()][:20])
    return svg.drawing(name, title, said, *parts, height=bottom + 28)
