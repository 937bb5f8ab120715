"""Charts with axes of their own: confusion as a grid, reliability, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxfer.reports import numbers, svg
from jaxfer.reports.charts import BOTTOM, RIGHT, TOP
from jaxfer.reports.markup import Markup, tag

DARKER = 0.6  # opacity of a cell from which on its count has the page's colour


def opacity(share: float) -> float:
    """Of a cell with this share of its true class: 1 % can be seen, and from half on the count is light on dark.

    None is between 0.5 and 0.8, where neither colour of a count would stand out.
    """
    return 0.8 + 0.4 * (share - 0.5) if share >= 0.5 else 0.05 + 0.45 * math.sqrt(2 * share)


def heatmap(name: str, title: str, counts: np.ndarray, classes: Sequence[str], support: np.ndarray) -> Markup:
    """Counts [true, predicted] as shares of each true class's examples: the darker the larger."""
    n = len(classes)
    names = [svg.shortened(c, 14) for c in classes]
    left = 16 + max(svg.wide(c, 11) for c in names)
    side = min(34.0, (svg.WIDTH - left - 8) / n)
    below = max(svg.wide(c, 11) for c in names)
    level = below < side - 2
    parts: list[Markup] = []
    for i in range(n):
        y = 26 + i * side
        parts.append(svg.text(left - 6, round(y + side / 2 + 4, 1), names[i], "end", "t"))
        for j in range(n):
            share = counts[i, j] / support[i] if support[i] else 0.0
            x = round(left + j * side, 1)
            hint = (
                f"true {classes[i]}, predicted {classes[j]}: {counts[i, j]} of {support[i]} ({numbers.percent(share)})"
            )
            parts.append(
                svg.rectangle(
                    x,
                    round(y, 1),
                    round(side - 1, 1),
                    round(side - 1, 1),
                    "cell",
                    hint,
                    opacity=f"{opacity(share):.2f}",
                )
            )
            if counts[i, j] and side >= 20:
                dark = opacity(share) > DARKER
                kind = "on h" if dark else "h"
                parts.append(
                    svg.text(
                        round(x + side / 2 - 0.5, 1), round(y + side / 2 + 4, 1), str(counts[i, j]), "middle", kind
                    )
                )
    for j in range(n):
        x, y = round(left + (j + 0.5) * side, 1), 26 + n * side + 14
        parts.append(
            svg.text(x, y, names[j], "middle", "t")
            if level
            else tag(
                "text", names[j], class_="t", text_anchor="end", transform=f"translate({x + 4:g} {y - 8:g}) rotate(-60)"
            )
        )
    parts += [svg.text(2, 14, "true class ↓   predicted →", kind="t")]
    height = 26 + n * side + (22 if level else 10 + below * 0.9)
    right = round(sum(np.diag(counts)) / max(support.sum(), 1), 3)
    said = f"{n} classes, {numbers.percent(right)} on the diagonal"
    return svg.drawing(name, title, said, *parts, height=round(height))


def reliability(name: str, title: str, bins: Sequence[tuple[float, float, int]]) -> Markup:
    """(mean confidence, accuracy, examples) of each bin against the diagonal; a mark's area is its number."""
    x = svg.Scale(low=0.0, high=1.0, begin=svg.LEFT, end=RIGHT)
    y = svg.Scale(low=0.0, high=1.0, begin=BOTTOM, end=TOP)
    parts = [svg.axes(x, y, x_name="confidence", y_name="accuracy"), svg.line(x(0), y(0), x(1), y(1), "dash")]
    most = max((count for *_, count in bins), default=1)
    gaps = [svg.line(x(c), y(c), x(c), y(a), "l") for c, a, _ in bins]
    marks = [
        svg.mark(
            x(c),
            y(a),
            1,
            f"confidence {numbers.score(c)}, accuracy {numbers.score(a)}, {count} examples",
            round(3 + 4 * math.sqrt(count / most), 1),
        )
        for c, a, count in bins
    ]
    said = "; ".join(f"{numbers.score(c)} sure, {numbers.score(a)} right of {count}" for c, a, count in bins)
    return svg.drawing(name, title, said, *parts, tag("g", *gaps, *marks, class_="s1"))


class Axis(NamedTuple):
    """An axis of parallel coordinates: its name, and where on it [0, 1] each run is, with what to say."""

    name: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


def parallel(name: str, title: str, axes: Sequence[Axis], good: Sequence[float]) -> Markup:
    """A line for each run through its setting to its score: the better, the stronger.

    Args:
      name: id of the figure.
      title: its title.
      axes: from left to right, the score's last.
      good: [runs] rank of its score in [0, 1], 1 for the best.
    """
    width, top, bottom = max(svg.WIDTH, 130.0 * len(axes)), 40.0, 270.0
    at = [60 + i * (width - 120) / max(len(axes) - 1, 1) for i in range(len(axes))]
    parts = []
    for run in sorted(range(len(good)), key=lambda r: good[r]):
        points = [
            (round(a, 1), round(bottom - axis.places[run] * (bottom - top), 1))
            for a, axis in zip(at, axes, strict=True)
        ]
        best = good[run] == 1
        kind = "s2" if best else "s1"
        parts.append(
            tag("g", svg.path(points), class_=kind, opacity=f"{1 if best else 0.12 + 0.6 * good[run] ** 2:.2f}")
        )
    for i, axis in enumerate(axes):
        parts += [svg.line(round(at[i], 1), top, round(at[i], 1), bottom, "a")]
        parts.append(svg.text(round(at[i], 1), 22, svg.shortened(axis.name, 18), "middle", "h"))
        for place, words in axis.ticks:
            y = round(bottom - place * (bottom - top), 1)
            last = i == len(axes) - 1
            parts.append(svg.text(round(at[i] + (-6 if last else 6), 1), y + 4, words, "end" if last else "start", "t"))
    return svg.drawing(name, title, f"{len(good)} runs over {len(axes)} axes", *parts, width=round(width), height=290)


def strips(name: str, title: str, stages: Mapping[str, Mapping[str, tuple[int, str, str]]]) -> Markup:
    """A row of boxes for each stage: {unit: (series of its colour, what it says, a few letters)}, input first.

    The letters are turned where they have no room across the box, and left out of a box narrower than they are high.
    """
    units = list(dict.fromkeys(unit for row in stages.values() for unit in row))
    left = 10 + max(svg.wide(svg.shortened(stage, 12)) for stage in stages)
    side, parts = (svg.WIDTH - left - 8) / len(units), []
    for i, (stage, row) in enumerate(stages.items()):
        y = 8 + 34 * i
        parts.append(svg.text(left - 8, y + 19, svg.shortened(stage, 12), "end"))
        for unit, (series, about, short) in row.items():
            x, width = round(left + units.index(unit) * side, 1), round(max(side - 2, 1), 1)
            kind = f"r {svg.hue(series)}"
            parts.append(svg.rectangle(x, y, width, 28, kind, about, rx=2, opacity=None if series else "0.35"))
            if short and width >= 11:
                middle = round(x + width / 2, 1)
                across = svg.wide(short, 11) < width - 2
                turned = "" if across else " rotate(-90)"
                down = y + 18 if across else y + 14
                at = f"translate({middle if across else middle + 4:g} {down:g}){turned}"
                parts.append(tag("text", short, class_="on t", text_anchor="middle", transform=at))
    bottom, every = 8 + 34 * len(stages), -(-12 // side) if side < 12 else 1
    below = max(svg.wide(svg.shortened(unit, 16), 11) for unit in units)
    for i, unit in enumerate(units):
        if i % every == 0 or i == len(units) - 1:
            x = round(left + (i + 0.5) * side, 1)
            turned = f"translate({x + 4:g} {bottom + 8:g}) rotate(-55)"
            parts.append(tag("text", svg.shortened(unit, 16), class_="t", text_anchor="end", transform=turned))
    said = "; ".join(f"{stage}: " + ", ".join(about for _, about, _ in row.values()) for stage, row in stages.items())
    return svg.drawing(name, title, said[:600], *parts, height=round(bottom + 14 + 0.85 * below))
