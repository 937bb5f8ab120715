"""Places labels beside the data where they hide least; a line joins a distant label to its point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from scipy.optimize import isotonic_regression

from jaxfer.figures.look import Style


def end_labels(axes: Axes, ends: Sequence[tuple[float | None, float, str, Style]]) -> None:
    """Puts names into the right margin, level with (x, y) if possible; (None, 0) is the bottom, (None, 1) the top."""
    margin = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center_baseline"}
    texts = [axes.annotate(name, (1, 0.5), (31, 0), annotation_clip=False, **margin) for *_, name, _ in ends]
    axes.figure.draw_without_rendering()
    axes.figure.set_layout_engine("none")
    to_axes, frame = axes.transData + axes.transAxes.inverted(), axes.get_window_extent()
    starts = np.array([(math.nan, y) if x is None else to_axes.transform((x, y)) for x, y, *_ in ends])
    levels = spread(starts[:, 1], 1.05 * max(text.get_window_extent().height for text in texts) / frame.height)
    point = axes.figure.dpi / 72 / frame.width
    for text, (x, y), level, (*_, look) in zip(texts, starts, levels, ends, strict=True):
        text.xy = (1, level)
        if not math.isnan(x):
            # A line from beside the end, and beside the ends next to it, which it would cross.
            near = starts[(np.abs(starts[:, 1] - y) < 0.05) & (np.abs(starts[:, 0] - x) < 0.15), 0].max()
            free = {"transform": axes.transAxes, "clip_on": False, "color": look.colour}
            knots = [near + 8 * point, max(1, near + 8 * point) + 6 * point, 1 + 16 * point]
            axes.plot(
                knots,
                [y, level, level],
                linewidth=0.9,
                alpha=0.7,
                zorder=1,
                linestyle=":" if near < 0.8 else "-",
                **free,
            )
            axes.plot(1 + 21 * point, level, look.marker, markersize=8, **free)


def spread(wanted: Sequence[float], gap: float) -> np.ndarray:
    """The levels in [0, 1] nearest to the wanted ones, in the same order and `gap` apart, by isotonic regression."""
    order = np.argsort(wanted, kind="stable")
    stairs = gap * np.arange(len(order))
    fitted = isotonic_regression(np.asarray(wanted, np.float64)[order] - stairs).x
    levels = np.empty(len(order))
    levels[order] = np.clip(fitted, gap / 2, max(gap / 2, 1 - gap / 2 - stairs[-1])) + stairs
    return levels


def beside(axes: Axes, spots: Sequence[tuple[float, float, float, str, str]]) -> None:
    """Puts names near the points (x, mean, half, name, colour), improved in rounds; a distant name gets a line."""
    axes.figure.draw_without_rendering()
    axes.figure.set_layout_engine("none")
    point, frame, to_pixels = axes.figure.dpi / 72, axes.get_window_extent(), axes.transData.transform
    dots, bars, texts, boxes, lines = [], [], [], [], []
    for x, mean, half, name, _ in spots:
        dot = to_pixels((x, mean))
        reach = to_pixels((x, mean + half))[1] - dot[1] if half > 0 else 0
        text = axes.annotate(name, (x, mean), (0, 0), textcoords="offset points", va="center", zorder=5)
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1})
        size = text.get_window_extent()
        places = _places(dot, (size.width, size.height), point)
        inside = (places[:, :2] >= frame.min).all(1) & (places[:, 2:] <= frame.max).all(1)
        dots.append(dot)
        bars.append(_around(dot, 2 * point, reach))
        texts.append(text)
        boxes.append(places[inside] if inside.any() else places)
        lines.append(_lines(dot, bars[-1], boxes[-1], point))
    marks = [_around(dot, 8 * point, 8 * point) for dot in dots]
    chosen: dict[int, int] = {}
    for _, i in itertools.product(range(4), sorted(range(len(spots)), key=lambda i: tuple(dots[i][::-1]))):
        others = [j for j in chosen if j != i]
        solid = [*(boxes[j][chosen[j]] for j in others), *(mark for j, mark in enumerate(marks) if j != i)]
        thin = [marks[i], *bars, *(box for j in others for box in lines[j][chosen[j]])]
        hidden = _overlaps(boxes[i] + _around(np.zeros(2), 3 * point, 3 * point), [*solid, *thin])
        crossed = _overlaps(lines[i].reshape(-1, 4), solid).reshape(len(boxes[i]), -1).sum(1)
        chosen[i] = int((hidden + 5 * crossed).argmin())
    for i, (x, mean, _, _, paint) in enumerate(spots):
        x0, y0, x1, y1 = boxes[i][chosen[i]]
        dark = [0.65 * part for part in to_rgb(paint)]  # readable on white, and still the method's hue
        texts[i].set(position=(np.array([x0, (y0 + y1) / 2]) - dots[i]) / point, color=dark)
        if lines[i][chosen[i]].any():
            end = (np.clip(dots[i], (x0, y0), (x1, y1)) - dots[i]) / point
            look = {"arrowstyle": "-", "color": dark, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 6}
            axes.annotate("", (x, mean), end, textcoords="offset points", arrowprops=look, zorder=2)


def _around(centre: np.ndarray, width: float, height: float) -> np.ndarray:
    """The box [x0, y0, x1, y1] that extends `width` and `height` to each side of a point."""
    return np.concatenate([centre - (width, height), centre + (width, height)])


def _places(dot: np.ndarray, size: tuple[float, float], point: float) -> np.ndarray:
    """[places, 4]: boxes for a name of this size around a dot, nearest first, in pixels; `point` pixels make a pt."""
    places = []
    for radius, turn in itertools.product((12, 18, 26, 38, 52, 68, 86, 106, 130), range(16)):
        way = np.array([math.cos(math.pi * turn / 8), math.sin(math.pi * turn / 8)])
        corner = dot + radius * point * way + size * np.where(way > 0.3, 0, np.where(way < -0.3, -1, -0.5))
        places.append([*corner, *(corner + size)])
    return np.array(places)


def _lines(dot: np.ndarray, bar: np.ndarray, boxes: np.ndarray, point: float) -> np.ndarray:
    """[places, 12, 4]: small boxes along the line from a dot to each place of its name; zeros where none is drawn."""
    apart = np.maximum(0, np.maximum(boxes[:, :2] - bar[2:], bar[:2] - boxes[:, 2:]))
    far = np.hypot(*apart.T) > 16 * point
    steps = np.linspace(0.1, 1, 12)[:, None]
    along = dot + steps * (np.clip(dot, boxes[:, :2], boxes[:, 2:]) - dot)[:, None]
    return np.concatenate([along - point, along + point], -1) * far[:, None, None]


def _overlaps(boxes: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """[boxes]: the area that each box shares with the others."""
    others = np.reshape(others, (-1, 4))
    low, high = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.maximum(0, high - low).prod(-1).sum(-1)
